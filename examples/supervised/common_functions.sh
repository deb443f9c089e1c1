#!/usr/bin/env bash
# What the scripts in this folder share: their arguments, and commands that a dry run only shows.

refuse() {
  printf 'error: %s\n%s\n' "$1" "$usage" >&2
  exit 2
}

# read_arguments USAGE MOST ARGUMENT...: sets `values`, at most MOST of them, and `is_dry_run`.
read_arguments() {
  local most=$2 argument
  usage=$1
  shift 2
  is_dry_run=false
  values=()
  for argument in "$@"; do
    case "$argument" in
      -h | --help)
        printf '%s\n' "$usage"
        exit
        ;;
      --dry-run) is_dry_run=true ;;
      -[!0-9]* | -) refuse "unknown option '$argument'; expected --dry-run" ;;
      *) values+=("$argument") ;;
    esac
  done
  [[ ${#values[@]} -le $most ]] || refuse "$most arguments are expected, ${#values[@]} given ('${values[most]}')"
}

require_count() {
  [[ "$2" =~ ^0*[1-9][0-9]*$ ]] || refuse "$1 must be a whole number of at least 1, got '$2'"
}

require_positive() {
  [[ "$2" =~ ^([0-9]+\.?[0-9]*|\.[0-9]+)$ && "$2" == *[1-9]* ]] || refuse "$1 must be a number above 0, got '$2'"
}

# A temporary folder; of a dry run only its name.
temporary_folder() {
  local options=()
  ! "$is_dry_run" || options+=(-u)
  mktemp -d "${options[@]}"
}

run() {
  if "$is_dry_run"; then
    printf '  command    '
    printf ' %q' "$@"
    printf '\n'
  else
    "$@"
  fi
}

# finish OUTPUT WORD...: the end of the script, with the words of the evaluation's arguments.
finish() {
  if "$is_dry_run"; then
    printf 'dry run: nothing was started\n'
  else
    printf 'wrote %s; measure it:\n  bash examples/crl_experiment/eval_embodiment.sh base "" %s\n' "$1" "${*:2}"
  fi
}
