#!/usr/bin/env bash
# O-LoRA: a fresh adapter per task on top of the earlier ones, out of their row spaces.
source "$(dirname "${BASH_SOURCE[0]}")/launch.sh"
launch "TASK_ID_OR_RANGE [CHECKPOINT_PATH] [MAX_EPOCH] [CONFIG_NAME] [SEED]" "$@" -- method=olora
