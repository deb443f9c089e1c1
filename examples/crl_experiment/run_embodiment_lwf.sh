#!/usr/bin/env bash
# LwF: sequential fine-tuning that stays close to the policy before the task on what it sees.
source "$(dirname "${BASH_SOURCE[0]}")/launch.sh"
launch "TASK_ID_OR_RANGE [CHECKPOINT_PATH] [MAX_EPOCH] [CONFIG_NAME] [SEED]" "$@" -- method=lwf
