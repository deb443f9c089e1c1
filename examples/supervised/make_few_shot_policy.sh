#!/usr/bin/env bash
# Teaches a pretrained policy a suite from a few demonstrations of each task, as the published "1 trajectory" checkpoints
# were made from a VLA: an adapter of rank 32, and OUTPUT-merged, the checkpoint that reinforcement learning starts from.
#
#   bash examples/supervised/make_few_shot_policy.sh BASE [SUITE] [DEMONSTRATIONS_PER_TASK] [STEPS] [OUTPUT] [WORK_FOLDER]
#
# BASE is a folder that make_pretrained_policy.sh wrote. With --dry-run the commands are shown and nothing is started.
set -Eeuo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
source examples/supervised/common_functions.sh
read_arguments \
  "usage: bash make_few_shot_policy.sh BASE [SUITE] [DEMONSTRATIONS_PER_TASK] [STEPS] [OUTPUT] [WORK_FOLDER] [--dry-run]" \
  6 "$@"

base=${values[0]:-}
[[ -n "$base" ]] || refuse "BASE is missing: the folder of a pretrained policy"
"$is_dry_run" || [[ -f "$base/config.json" ]] || refuse "BASE has no config.json: '$base'"
suite=${values[1]:-libero_spatial}
demonstrations=${values[2]:-5}
steps=${values[3]:-1500}
require_count DEMONSTRATIONS_PER_TASK "$demonstrations"
require_count STEPS "$steps"
output=${values[4]:-${base%/}-${suite//_/-}-$demonstrations-demos}
work=${values[5]:-$(temporary_folder)}

run python -m libero_runtime.demos "$suite" --episodes "$demonstrations" --out "$work/demonstrations/$suite" \
  --noise 0.2 --init-jitter 0.015 --seed 1
run python -m openvla_oft.finetune --demonstrations "$work/demonstrations" --suite "$suite" --init "$base" \
  --output "$output" --steps "$steps" --batch-size 256 --lr 1e-3 --label-sigma 0 --validate-every 1000000 \
  --lora-rank 32 --lora-alpha 32 --unnorm-key libero_90_no_noops
run python -m openvla_oft.merge --base "$base" --adapter "$output" --output "$output-merged"
finish "$output-merged" "crl_experiment/${suite}_grpo_tiny" \
  "actor.checkpoint_load_path=$output-merged actor.model.unnorm_key=libero_90"
