#!/usr/bin/env bash
# Makes a small pretrained policy, the counterpart of a VLA that has seen many tasks and none of those it will learn:
# scripted demonstrations of the 87 tasks of LIBERO-90 that the expert solves, then supervised training from scratch.
# Meant for one NVIDIA GPU and many CPU cores (docs/small_policy.md). make_few_shot_policy.sh goes on from it.
#
#   bash examples/supervised/make_pretrained_policy.sh [OUTPUT] [DEMONSTRATIONS_PER_TASK] [MINUTES] [WORK_FOLDER]
#
# With --dry-run the commands are shown and nothing is started.
set -Eeuo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
source examples/supervised/common_functions.sh
read_arguments \
  "usage: bash make_pretrained_policy.sh [OUTPUT] [DEMONSTRATIONS_PER_TASK] [MINUTES] [WORK_FOLDER] [--dry-run]" \
  4 "$@"

output=${values[0]:-model/my-small-openvla-oft-libero-90}
demonstrations=${values[1]:-32}
minutes=${values[2]:-10}
require_count DEMONSTRATIONS_PER_TASK "$demonstrations"
require_positive MINUTES "$minutes"
work=${values[3]:-$(temporary_folder)}

run python -m libero_runtime.demos libero_90 --episodes "$demonstrations" --tasks 0-17,19-52,54-84,86-89 \
  --out "$work/demonstrations/libero_90" --noise 0.2 --init-jitter 0.015 --seed 1
run python -m openvla_oft.pack --demonstrations "$work/demonstrations" --suite libero_90 --image-size 128 \
  --output "$work/packed"
# At a learning rate of 1.5e-3 the loss of this size was NaN after 550 steps.
run python -m openvla_oft.finetune --demonstrations "$work/packed" --suite libero_90 --init small --output "$output" \
  --minutes "$minutes" \
  --towers dinov2,siglip --vit-dim 192 --vit-depth 4 --vit-heads 3 \
  --llm-hidden 256 --llm-layers 5 --llm-heads 4 --llm-intermediate 704 \
  --batch-size 512 --lr 5e-4 --warmup-steps 1000 --label-sigma 0 --steps 1000000
finish "$output" "crl_experiment/libero_spatial_grpo_tiny" "actor.checkpoint_load_path=$output actor.model.unnorm_key=libero_90"
