#!/usr/bin/env bash
# Success on all tasks of a checkpoint (a task folder) or of the base model; env.suite= plays a perturbed suite instead.
source "$(dirname "${BASH_SOURCE[0]}")/launch.sh"
launch "LOCATION|base [STEP] [CONFIG_NAME]" "$@" -- action=evaluate \
  "hint=other words, looks, places or goals (LIBERO-PRO): env.suite=libero_spatial_{lan,object,swap,task}" \
  "hint=besides the suite itself: env.eval_suites=[libero_spatial_lan,libero_spatial_swap]"
