#!/usr/bin/env bash
# Makes the start of the convolutional baseline: scripted demonstrations of ten LIBERO-Spatial tasks, then supervised
# training from scratch. Meant for one NVIDIA GPU and many CPU cores; on two cores give fewer of both.
#
#   bash examples/supervised/make_simple_cnn.sh [OUTPUT] [DEMONSTRATIONS_PER_TASK] [STEPS] [WORK_FOLDER]
#
# With --dry-run the commands are shown and nothing is started.
set -Eeuo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
source examples/supervised/common_functions.sh
read_arguments \
  "usage: bash make_simple_cnn.sh [OUTPUT] [DEMONSTRATIONS_PER_TASK] [STEPS] [WORK_FOLDER] [--dry-run]" \
  4 "$@"

output=${values[0]:-model/my-simple-cnn-libero-spatial}
demonstrations=${values[1]:-200}
steps=${values[2]:-10000}
require_count DEMONSTRATIONS_PER_TASK "$demonstrations"
require_count STEPS "$steps"
work=${values[3]:-$(temporary_folder)}

run python -m libero_runtime.demonstrations --suite libero_spatial --tasks 0-9 --episodes-per-task "$demonstrations" \
  --noise 0.2 --init-jitter 0.015 --seed 1 --output "$work/demonstrations"
run python -m rlinf.cli.pretrain_simple_cnn --demonstrations "$work/demonstrations" --output "$output" --steps "$steps"
finish "$output" crl_experiment/libero_spatial_grpo_simple_cnn_eval \
  "actor.checkpoint_load_path=$output rollout.model_dir=$output"
