#!/usr/bin/env bash
# Experience replay: the policy keeps imitating expert demonstrations.
source "$(dirname "${BASH_SOURCE[0]}")/launch.sh"
launch "TASK_ID_OR_RANGE [ER_COEFF=0.03] [CHECKPOINT_PATH] [MAX_EPOCH] [CONFIG_NAME] [SEED]" "$@" -- \
  method=er "method.replay.coeff={ER_COEFF}"
