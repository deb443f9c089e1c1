#!/usr/bin/env bash
# Makes the small policy that comes with the repository: scripted demonstrations of ten LIBERO-Spatial tasks, then
# supervised training from scratch. Meant for one NVIDIA GPU and many CPU cores (docs/small_policy.md has the times).
#
#   bash examples/supervised/make_small_policy.sh [OUTPUT] [DEMONSTRATIONS_PER_TASK] [MINUTES] [WORK_FOLDER]
set -Eeuo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
output=${1:-model/my-tiny-openvla-oft-libero-spatial}
demonstrations=${2:-200}
minutes=${3:-6.3}
work=${4:-$(mktemp -d)}

python -m libero_runtime.demonstrations --suite libero_spatial --tasks 0-9 --episodes-per-task "$demonstrations" \
  --noise 0.2 --init-jitter 0.015 --seed 1 --num-workers "$(nproc)" --output "$work/demonstrations"
python -m openvla_oft.pack --demonstrations "$work/demonstrations" --image-size 128 --num-workers "$(nproc)" \
  --output "$work/packed"
python -m openvla_oft.finetune --demonstrations "$work/packed" --init small --output "$output" --minutes "$minutes" \
  --towers dinov2,siglip --vit-dim 128 --vit-depth 4 --vit-heads 2 \
  --llm-hidden 192 --llm-layers 4 --llm-heads 3 --llm-intermediate 512 \
  --batch-size 512 --lr 2e-3 --label-sigma 0 --steps 1000000
printf 'wrote %s; measure it:\n  bash examples/crl_experiment/eval_embodiment.sh base "" %s %s\n' "$output" \
  crl_experiment/libero_spatial_grpo_tiny "actor.checkpoint_load_path=$output rollout.model_dir=$output"
