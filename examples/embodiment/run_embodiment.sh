#!/usr/bin/env bash
# One training run exactly as the configuration and the given overrides say.
source "$(dirname "${BASH_SOURCE[0]}")/../crl_experiment/launch.sh"
launch "[CONFIG_NAME]" "$@" -- action=train
