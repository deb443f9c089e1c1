#!/usr/bin/env bash
# Weight merge: earlier tasks' adapters are merged into the base with MERGE_COEFF, each task learns a fresh one.
source "$(dirname "${BASH_SOURCE[0]}")/launch.sh"
launch "TASK_ID_OR_RANGE MERGE_COEFF [CONFIG_NAME] [SEED]" "$@" -- method=weight_merge "method.merge.coeff={MERGE_COEFF}"
