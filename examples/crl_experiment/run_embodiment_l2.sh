#!/usr/bin/env bash
# L2: sequential fine-tuning whose weights are pulled towards where the sequence started.
source "$(dirname "${BASH_SOURCE[0]}")/launch.sh"
launch "TASK_ID_OR_RANGE [CHECKPOINT_PATH] [MAX_EPOCH] [CONFIG_NAME] [SEED]" "$@" -- method=l2
