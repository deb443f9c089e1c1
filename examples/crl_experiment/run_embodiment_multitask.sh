#!/usr/bin/env bash
# Joint training on all TASK_IDS at once: the oracle.
source "$(dirname "${BASH_SOURCE[0]}")/launch.sh"
launch "TASK_IDS [CHECKPOINT_PATH] [MAX_EPOCH] [CONFIG_NAME] [SEED]" "$@" -- order=joint method=multitask
