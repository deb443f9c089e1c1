#!/usr/bin/env bash
# EMA: sequential fine-tuning; what a task leaves is the moving average of its weights.
source "$(dirname "${BASH_SOURCE[0]}")/launch.sh"
launch "TASK_ID_OR_RANGE [CHECKPOINT_PATH] [MAX_EPOCH] [CONFIG_NAME] [SEED]" "$@" -- method=ema
