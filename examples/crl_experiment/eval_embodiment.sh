#!/usr/bin/env bash
# Success on all tasks of a checkpoint (a task folder) or of the base model.
source "$(dirname "${BASH_SOURCE[0]}")/launch.sh"
launch "LOCATION|base [STEP] [CONFIG_NAME]" "$@" -- action=evaluate
