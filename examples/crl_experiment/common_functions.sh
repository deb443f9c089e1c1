# shellcheck shell=bash
# Shared by all launchers: where the repository is and which Python runs it. Source this file.
set -Eeuo pipefail

CRL_ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"

# The active environment's Python (venv, or conda other than its base), else the repository's .venv, else python3.
crl_python() {
  if [[ -n "${VIRTUAL_ENV:-}" ]]; then
    printf '%s\n' "$VIRTUAL_ENV/bin/python"
  elif [[ -n "${CONDA_PREFIX:-}" && "${CONDA_DEFAULT_ENV:-}" != base ]]; then
    printf '%s\n' "$CONDA_PREFIX/bin/python"
  elif [[ -x "$CRL_ROOT/.venv/bin/python" ]]; then
    printf '%s\n' "$CRL_ROOT/.venv/bin/python"
  else
    printf 'python3\n'
  fi
}

# Replace this shell by `python ARGUMENT...` with the repository importable, from wherever it was called.
crl_exec_python() {
  export PYTHONPATH="$CRL_ROOT${PYTHONPATH:+:$PYTHONPATH}"
  exec "$(crl_python)" "$@"
}

# Run a command to its end and return its exit code; a signal that reaches this shell alone is handed on to it.
crl_run() {
  local child='' code=0 is_stopped=false
  trap 'is_stopped=true; [ -z "$child" ] || kill -TERM "$child" 2>/dev/null || true' INT TERM HUP
  "$@" </dev/null &
  child=$!
  ! "$is_stopped" || kill -TERM "$child" 2>/dev/null || true # before its number was known
  wait "$child" || code=$?
  while kill -0 "$child" 2>/dev/null; do # a trapped signal ends `wait` before the child has ended
    code=0
    wait "$child" || code=$?
  done
  trap - INT TERM HUP
  return "$code"
}
