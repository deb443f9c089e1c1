#!/usr/bin/env bash
# SFT: supervised fine-tuning task after task, the control of reinforcement learning.
source "$(dirname "${BASH_SOURCE[0]}")/launch.sh"
launch "TASK_ID_OR_RANGE [CHECKPOINT_PATH] [MAX_EPOCH] [CONFIG_NAME] [SEED]" "$@" -- method=sft
