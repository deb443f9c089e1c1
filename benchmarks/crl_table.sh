#!/usr/bin/env bash
# The table of continual-learning methods and controls, slice by slice: what is done is skipped.
#
#   bash benchmarks/crl_table.sh libero_spatial                              every row, three seeds, LIBERO-PRO at the end
#   bash benchmarks/crl_table.sh libero_spatial --minutes 25 --jobs 3        ends in time; the next call goes on
#   bash benchmarks/crl_table.sh libero_spatial --rows sequential,sft --seeds 1234
#   bash benchmarks/crl_table.sh libero_spatial --show                       the table so far, and nothing is run
source "$(dirname "${BASH_SOURCE[0]}")/../examples/crl_experiment/common_functions.sh"
cd "$CRL_ROOT"
export PYTHONUNBUFFERED=1 RAY_USAGE_STATS_ENABLED=0
crl_exec_python -m benchmarks.crl_table "$@"
