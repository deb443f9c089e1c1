#!/usr/bin/env bash
# Everything that only a GPU can show, in one command of at most ten minutes; it ends at the first failure.
#
#   bash benchmarks/gpu.sh              tests/gpu, speed of the model, whole epochs of the 7B's shape and of a small policy
#   bash benchmarks/gpu.sh --quick      the same with less of each, in three minutes; not for docs/benchmarks.md
#   bash benchmarks/gpu.sh --help       where results go, and parts of it alone
#
# Needs a GPU with 100 GB of memory, the environment of the launchers, and 16 GB of disk for the checkpoint it makes.
source "$(dirname "${BASH_SOURCE[0]}")/../examples/crl_experiment/common_functions.sh"
cd "$CRL_ROOT"
export PYTHONUNBUFFERED=1 RAY_USAGE_STATS_ENABLED=0
crl_exec_python -m benchmarks.gpu "$@"
