#!/usr/bin/env bash
# From a bare machine to a result: installs everything, then learns two tasks of LIBERO-Spatial one after the other with
# the small policy, evaluates all ten tasks before and after each, and writes a report. A second run skips what is done.
#
#   bash examples/quickstart.sh [KEY=VALUE ...]      Hydra overrides of crl_experiment/libero_spatial_grpo_tiny
#   bash examples/quickstart.sh --dry-run            installs, then shows what would run
source "$(dirname "${BASH_SOURCE[0]}")/setup_environment.sh"

log_root=logs/quickstart
is_dry_run=false
for argument in "$@"; do
  case "$argument" in
    runner.logger.log_root=*) log_root=${argument#*=} ;;
    --dry-run) is_dry_run=true ;;
  esac
done

case "$log_root" in # quoted for Hydra
  \'*\' | \"*\") log_root=${log_root:1:-1} ;;
esac

setup_environment
cd "$CRL_ROOT"
crl_run bash examples/crl_experiment/run_embodiment_sequential.sh \
  "0,1" "" "" crl_experiment/libero_spatial_grpo_tiny 1234 runner.logger.log_root=logs/quickstart "$@"
"$is_dry_run" || crl_run python -m rlinf.cli.report "$log_root" --out "$log_root/report.html"
