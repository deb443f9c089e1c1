#!/usr/bin/env bash
# Sets up like the quickstart, then lints, type-checks and tests.
#
#   bash tests/run.sh                      every suite, with the time of each check
#   bash tests/run.sh tests/unit -k plan   pytest with these arguments instead
source "$(dirname "${BASH_SOURCE[0]}")/../examples/setup_environment.sh"
setup_development_environment
cd "$CRL_ROOT" || exit
export RAY_USAGE_STATS_ENABLED=0
# Ray starts workers with niceness 15: beside other tests they would hardly run.
export RAY_worker_niceness="${RAY_worker_niceness:-0}"

summary=()
failed=0

check() {
  local name=$1 start=$SECONDS result=ok
  shift
  printf '\n== %s\n' "$name"
  "$@" </dev/null || { result="FAILED ($?)" && failed=1; }
  summary+=("$(printf '%-14s %4d s  %s' "$name" $((SECONDS - start)) "$result")")
}

check ruff python -m ruff check .
check mypy python -m mypy
if command -v shellcheck >/dev/null; then
  check shellcheck shellcheck -x -P SCRIPTDIR .ci/run tests/run.sh examples/*.sh examples/*/*.sh
fi
if (($#)); then
  check pytest python -m pytest "$@"
else
  # Those that wait longest for processes of their own come first (which xdist would put last, as files of few tests),
  # so that others fill the cores meanwhile; for them there is one process more.
  workers=$(($(python -m libero_runtime.cpus) + 1))
  suites=(tests/e2e tests/distributed tests/gpu tests/golden tests/unit)
  check tests env OMP_NUM_THREADS=1 python -m pytest -q "${suites[@]}" -n $((workers < 4 ? workers : 4)) --dist loadfile \
    --no-loadscope-reorder --durations=15
fi

printf '\n'
printf '%s\n' "${summary[@]}"
exit "$failed"
