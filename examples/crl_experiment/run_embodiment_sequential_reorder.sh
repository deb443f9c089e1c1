#!/usr/bin/env bash
# Sequential fine-tuning in any order; the same RUN_ID continues it (default: named by its order).
source "$(dirname "${BASH_SOURCE[0]}")/launch.sh"
launch "TASK_IDS [RUN_ID] [MAX_EPOCH] [CONFIG_NAME] [SEED] [INIT_CHECKPOINT]" "$@" -- \
  order=listed method=sequential_reorder
