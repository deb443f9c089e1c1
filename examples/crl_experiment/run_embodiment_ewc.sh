#!/usr/bin/env bash
# EWC: sequential fine-tuning that holds the weights which earlier tasks depend on.
source "$(dirname "${BASH_SOURCE[0]}")/launch.sh"
launch "TASK_ID_OR_RANGE [CHECKPOINT_PATH] [MAX_EPOCH] [CONFIG_NAME] [SEED]" "$@" -- method=ewc
