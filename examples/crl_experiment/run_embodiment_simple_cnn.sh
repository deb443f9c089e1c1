#!/usr/bin/env bash
# The convolutional baseline, sequentially; all its weights are trained.
source "$(dirname "${BASH_SOURCE[0]}")/launch.sh"
launch "TASK_ID_OR_RANGE [CHECKPOINT_PATH] [MAX_EPOCH] [CONFIG_NAME] [SEED]" "$@" -- \
  method=simple_cnn config=crl_experiment/libero_spatial_grpo_simple_cnn
