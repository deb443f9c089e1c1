#!/usr/bin/env bash
# Dark experience replay: on demonstrations, the policy stays close to the base model's logits.
source "$(dirname "${BASH_SOURCE[0]}")/launch.sh"
launch "TASK_ID_OR_RANGE [DER_COEFF=0.03] [CHECKPOINT_PATH] [MAX_EPOCH] [CONFIG_NAME] [SEED]" "$@" -- \
  method=der "method.replay.coeff={DER_COEFF}"
