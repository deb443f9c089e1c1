#!/usr/bin/env bash
# SLCA: one learning rate per module, LR_STRING is "vision,llm,head".
source "$(dirname "${BASH_SOURCE[0]}")/launch.sh"
launch "TASK_ID_OR_RANGE [LR_STRING=4e-6,4e-6,4e-5] [CONFIG_NAME] [SEED]" "$@" -- method=slca \
  "method.slca.vision={LR_STRING[0]}" "method.slca.llm={LR_STRING[1]}" "method.slca.head={LR_STRING[2]}"
