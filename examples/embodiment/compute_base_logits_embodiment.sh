#!/usr/bin/env bash
# Base-model logits of the demonstrations, for dark experience replay: [CONFIG_NAME] [--dry-run] [KEY=VALUE ...]
source "$(dirname "${BASH_SOURCE[0]}")/../crl_experiment/common_functions.sh"
crl_exec_python "$CRL_ROOT/examples/embodiment/compute_base_logits_embodied_agent.py" "$@"
