#!/usr/bin/env bash
# Makes a small policy such as those that come with the repository: scripted demonstrations of a suite's ten tasks, then
# supervised training from scratch. Meant for one NVIDIA GPU and many CPU cores (docs/small_policy.md has the times).
# SUITE may name several suites, with commas between: one policy for all of them.
#
#   bash examples/supervised/make_small_policy.sh [OUTPUT] [DEMONSTRATIONS_PER_TASK] [MINUTES] [WORK_FOLDER] [SUITE]
#
# With --dry-run the commands are shown and nothing is started.
set -Eeuo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
source examples/supervised/common_functions.sh
read_arguments \
  "usage: bash make_small_policy.sh [OUTPUT] [DEMONSTRATIONS_PER_TASK] [MINUTES] [WORK_FOLDER] [SUITE] [--dry-run]" \
  5 "$@"

suite=${values[4]:-libero_spatial}
output=${values[0]:-model/my-tiny-openvla-oft-${suite//_/-}}
demonstrations=${values[1]:-200}
minutes=${values[2]:-6.3}
require_count DEMONSTRATIONS_PER_TASK "$demonstrations"
require_positive MINUTES "$minutes"
work=${values[3]:-$(temporary_folder)}

for name in ${suite//,/ }; do
  run python -m libero_runtime.demos "$name" --episodes "$demonstrations" --out "$work/demonstrations/$name" \
    --noise 0.2 --init-jitter 0.015 --seed 1
done
run python -m openvla_oft.pack --demonstrations "$work/demonstrations" --suite "$suite" --image-size 128 \
  --output "$work/packed"
run python -m openvla_oft.finetune --demonstrations "$work/packed" --suite "$suite" --init small --output "$output" \
  --minutes "$minutes" \
  --towers dinov2,siglip --vit-dim 128 --vit-depth 4 --vit-heads 2 \
  --llm-hidden 192 --llm-layers 4 --llm-heads 3 --llm-intermediate 512 \
  --batch-size 512 --lr 2e-3 --label-sigma 0 --steps 1000000
finish "$output" "crl_experiment/${suite%%,*}_grpo_tiny" "actor.checkpoint_load_path=$output actor.model.unnorm_key=${suite%%,*}"
