# shellcheck shell=bash
# What every launcher is made of. Source this file, then declare the launcher:
#
#   launch "TASK_ID_OR_RANGE [ER_COEFF=0.03] [SEED]" "$@" -- method=er algorithm.bc_coeff={ER_COEFF}
#
# The first word is the signature, as documented; after -- come the launcher's fixed settings and Hydra overrides.
# rlinf/cli/launcher.py reads them, rlinf/custom/sequence/plan.py plans, rlinf/cli/run_sequence.py runs.
source "$(dirname "${BASH_SOURCE[0]}")/common_functions.sh"

launch() {
  crl_exec_python -m rlinf.cli.run_sequence "${0##*/}" "$@" </dev/null # nothing may prompt
}
