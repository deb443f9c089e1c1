#!/usr/bin/env bash
# Makes a small policy such as those that come with the repository: scripted demonstrations of a suite's ten tasks, then
# supervised training from scratch. Meant for one NVIDIA GPU and many CPU cores (docs/small_policy.md has the times).
# SUITE may name several suites, with commas between: one policy for all of them.
#
#   bash examples/supervised/make_small_policy.sh [OUTPUT] [DEMONSTRATIONS_PER_TASK] [MINUTES] [WORK_FOLDER] [SUITE]
set -Eeuo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
suite=${5:-libero_spatial}
output=${1:-model/my-tiny-openvla-oft-${suite//_/-}}
demonstrations=${2:-200}
minutes=${3:-6.3}
work=${4:-$(mktemp -d)}

for name in ${suite//,/ }; do
  python -m libero_runtime.demos "$name" --episodes "$demonstrations" --out "$work/demonstrations/$name" \
    --noise 0.2 --init-jitter 0.015 --seed 1 --num-workers "$(nproc)"
done
python -m openvla_oft.pack --demonstrations "$work/demonstrations" --suite "$suite" --image-size 128 \
  --num-workers "$(nproc)" --output "$work/packed"
python -m openvla_oft.finetune --demonstrations "$work/packed" --suite "$suite" --init small --output "$output" \
  --minutes "$minutes" \
  --towers dinov2,siglip --vit-dim 128 --vit-depth 4 --vit-heads 2 \
  --llm-hidden 192 --llm-layers 4 --llm-heads 3 --llm-intermediate 512 \
  --batch-size 512 --lr 2e-3 --label-sigma 0 --steps 1000000
printf 'wrote %s; measure it:\n  bash examples/crl_experiment/eval_embodiment.sh base "" %s %s\n' "$output" \
  "crl_experiment/${suite%%,*}_grpo_tiny" "actor.checkpoint_load_path=$output actor.model.unnorm_key=${suite%%,*}"
