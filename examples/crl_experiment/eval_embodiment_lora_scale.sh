#!/usr/bin/env bash
# Success of a checkpoint whose adapter counts CURRENT_LORA_SCALE times; earlier, merged ones PREVIOUS_LORA_COEFF times.
source "$(dirname "${BASH_SOURCE[0]}")/launch.sh"
launch "CHECKPOINT_LOCATION CURRENT_LORA_SCALE [PREVIOUS_LORA_COEFF] [STEP_NUMBER] [CONFIG_NAME]" "$@" -- \
  action=evaluate "actor.model.lora_scale={CURRENT_LORA_SCALE}" "actor.model.previous_lora_coeff={PREVIOUS_LORA_COEFF}"
