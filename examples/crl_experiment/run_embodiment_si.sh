#!/usr/bin/env bash
# SI: sequential fine-tuning with a penalty on changes of what earlier tasks were learnt by.
source "$(dirname "${BASH_SOURCE[0]}")/launch.sh"
launch "TASK_ID_OR_RANGE [CHECKPOINT_PATH] [MAX_EPOCH] [CONFIG_NAME] [SEED]" "$@" -- method=si
