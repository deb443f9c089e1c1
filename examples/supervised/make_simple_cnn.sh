#!/usr/bin/env bash
# Makes the start of the convolutional baseline: scripted demonstrations of ten LIBERO-Spatial tasks, then supervised
# training from scratch. Meant for one NVIDIA GPU and many CPU cores; on two cores give fewer of both.
#
#   bash examples/supervised/make_simple_cnn.sh [OUTPUT] [DEMONSTRATIONS_PER_TASK] [STEPS] [WORK_FOLDER]
set -Eeuo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
output=${1:-model/simple-cnn-libero-spatial}
demonstrations=${2:-200}
steps=${3:-10000}
work=${4:-$(mktemp -d)}

python -m libero_runtime.demonstrations --suite libero_spatial --tasks 0-9 --episodes-per-task "$demonstrations" \
  --noise 0.2 --init-jitter 0.015 --seed 1 --num-workers "$(nproc)" --output "$work/demonstrations"
python -m rlinf.cli.pretrain_simple_cnn --demonstrations "$work/demonstrations" --output "$output" --steps "$steps"
printf 'wrote %s; measure it:\n  bash examples/crl_experiment/eval_embodiment.sh base "" %s\n' "$output" \
  crl_experiment/libero_spatial_grpo_simple_cnn_eval
