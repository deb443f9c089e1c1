#!/usr/bin/env bash
# DWE: a fresh adapter per task on the plain base model; evaluations play each task with its own.
source "$(dirname "${BASH_SOURCE[0]}")/launch.sh"
launch "TASK_ID_OR_RANGE [CHECKPOINT_PATH] [MAX_EPOCH] [CONFIG_NAME] [SEED]" "$@" -- method=dwe
