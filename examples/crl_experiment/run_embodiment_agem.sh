#!/usr/bin/env bash
# A-GEM: sequential fine-tuning whose gradients do not oppose those of rollouts replayed from earlier tasks.
source "$(dirname "${BASH_SOURCE[0]}")/launch.sh"
launch "TASK_ID_OR_RANGE [CHECKPOINT_PATH] [MAX_EPOCH] [CONFIG_NAME] [SEED]" "$@" -- method=agem
