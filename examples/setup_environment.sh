# shellcheck shell=bash
# Make this repository runnable. Source this file, then call `setup_environment` (or `setup_development_environment`,
# which adds what tests/run.sh needs). It uses the active environment or makes .venv, installs what is missing, finds an
# off-screen OpenGL, and leaves that environment active. What was installed is remembered in the environment, so a
# second call takes no time.
source "$(dirname "${BASH_SOURCE[0]}")/crl_experiment/common_functions.sh"

CRL_TORCH=2.13.0
CRL_TRITON=3.6.0 # of the oldest supported torch
CRL_CPU_INDEX=https://download.pytorch.org/whl/cpu
CRL_PACKAGES=(transformers-openvla-oft openvla-oft LIBERO .)

crl_say() { printf '== %s\n' "$*"; }

crl_fail() {
  printf 'error: %s\n' "$@" >&2
  exit 2
}

crl_is_new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

# The newest-named interpreter is not what counts: the first one that is new enough is taken.
crl_base_python() {
  local name
  for name in python3 python python3.14 python3.13 python3.12 python3.11; do
    if command -v "$name" >/dev/null && crl_is_new_enough "$name"; then
      command -v "$name"
      return
    fi
  done
  crl_fail "Python 3.11 or newer is needed; found $(python3 --version 2>&1 || true)." \
    "Install one (Debian 12, Ubuntu 24.04: apt-get install python3 python3-venv; or https://docs.conda.io) and try again."
}

crl_activate() {
  local python base
  python=$(crl_python)
  if [[ "$python" == python3 || "$python" == "$CRL_ROOT/.venv/bin/python" ]]; then
    python="$CRL_ROOT/.venv/bin/python"
    if ! "$python" -m pip --version >/dev/null 2>&1; then
      base=$(crl_base_python)
      "$base" -c 'import ensurepip, venv' 2>/dev/null || crl_fail \
        "$base cannot make environments: its venv and pip modules are missing." \
        "Install them, then try again: apt-get install -y $("$base" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')"
      crl_say "making .venv with $("$base" --version)"
      "$base" -m venv "$CRL_ROOT/.venv"
    fi
    export VIRTUAL_ENV="$CRL_ROOT/.venv"
  fi
  crl_is_new_enough "$python" ||
    crl_fail "Python 3.11 or newer is needed; the active environment has $("$python" --version 2>&1) ($python)."
  "$python" -m pip --version >/dev/null 2>&1 ||
    crl_fail "the active environment has no pip ($python); add it with: $python -m ensurepip"
  PATH="$(dirname "$python"):$PATH"
  export PATH
}

crl_pip_install() {
  PIP_ROOT_USER_ACTION=ignore python -m pip install --disable-pip-version-check --no-input "$@" </dev/null
}

crl_has_nvidia_gpu() { nvidia-smi -L 2>/dev/null | grep -q '^GPU'; }

# An installed torch is kept. Without a GPU the CPU build is taken from wherever pip is told to look, else from PyTorch's
# own index; PyPI alone has only the CUDA build, which works as well but is ten times as large.
crl_install_torch() {
  local have
  have=$(python -c 'from importlib.metadata import version; print(version("torch"))' 2>/dev/null || true)
  if [[ -n "$have" ]]; then
    crl_say "torch $have is there and kept"
    return
  fi
  if ! crl_has_nvidia_gpu; then
    local index
    for index in "" "--extra-index-url=$CRL_CPU_INDEX"; do
      if crl_pip_install "torch==$CRL_TORCH+cpu" ${index:+"$index"} --dry-run --quiet --no-deps --retries 0 \
        --timeout 15 >/dev/null 2>&1; then
        crl_say "installing torch $CRL_TORCH, CPU build"
        crl_pip_install "torch==$CRL_TORCH+cpu" ${index:+"$index"}
        return
      fi
    done
    crl_say "no CPU build of torch $CRL_TORCH can be reached; the package index's own build is used (a large download)"
  fi
  crl_say "installing torch $CRL_TORCH"
  crl_pip_install "torch==$CRL_TORCH"
}

crl_install_packages() {
  local editable=() package
  for package in "${CRL_PACKAGES[@]}"; do editable+=(-e "$CRL_ROOT/$package"); done
  crl_install_torch
  crl_say "installing requirements.txt"
  crl_pip_install -r "$CRL_ROOT/requirements.txt"
  crl_say "installing the simulator packages"
  crl_pip_install --no-deps -r "$CRL_ROOT/requirements-simulator.txt"
  crl_say "installing the packages of this repository"
  crl_pip_install "${editable[@]}"
}

crl_find_opengl() {
  local backend reason
  if backend=$(python -m libero_runtime.opengl 2>/dev/null); then
    crl_say "off-screen OpenGL: $backend"
    return
  fi
  if [[ -z "${MUJOCO_GL:-}" && $(id -u) == 0 ]] && command -v apt-get >/dev/null; then
    crl_say "no off-screen OpenGL works yet: installing libosmesa6"
    local install=(env DEBIAN_FRONTEND=noninteractive apt-get install -y libosmesa6)
    "${install[@]}" </dev/null >/dev/null 2>&1 || { apt-get update </dev/null && "${install[@]}" </dev/null; } ||
      crl_say "apt-get could not install libosmesa6"
    if backend=$(python -m libero_runtime.opengl 2>/dev/null); then
      crl_say "off-screen OpenGL: $backend"
      return
    fi
  fi
  reason=$(python -m libero_runtime.opengl 2>&1 || true)
  crl_fail "${reason#error: }" "Run this once, then try again:  sudo apt-get update && sudo apt-get install -y libosmesa6"
}

# A change of any of these files, of the Python or of the repository's place asks for another installation.
crl_fingerprint() {
  local file
  {
    printf '%s %s\n' "$CRL_ROOT" "$(python --version)"
    for file in "$@" "${CRL_PACKAGES[@]/%//pyproject.toml}"; do cat "$CRL_ROOT/$file"; done
    cat "${BASH_SOURCE[0]}"
  } | sha256sum
}

# Install with COMMAND unless the environment remembers, under NAME, that it was done with this fingerprint.
crl_once() {
  local name=$1 fingerprint=$2 stamp
  shift 2
  stamp="$(python -c 'import sys; print(sys.prefix)')/.continual-vla-rl-$name"
  [[ "$(cat "$stamp" 2>/dev/null)" == "$fingerprint" ]] && return
  "$@"
  printf '%s\n' "$fingerprint" >"$stamp"
}

crl_install_all() {
  crl_install_packages
  crl_find_opengl
}

# Tests compile the GPU's kernels, also where there is no GPU. Its builds of torch bring Triton along, the CPU's do not.
crl_install_triton() {
  python -c 'import triton' 2>/dev/null && return
  crl_say "installing triton $CRL_TRITON, for tests of the GPU's kernels"
  crl_pip_install --no-deps "triton==$CRL_TRITON" ||
    crl_say "there is no triton for this machine: tests of the GPU's kernels will be skipped"
}

crl_install_development() {
  crl_say "installing requirements-dev.txt"
  crl_pip_install -r "$CRL_ROOT/requirements-dev.txt"
  crl_install_triton
}

setup_environment() {
  crl_activate
  crl_once environment "$(crl_fingerprint requirements.txt requirements-simulator.txt)" crl_install_all
}

setup_development_environment() {
  setup_environment
  crl_once development "$(crl_fingerprint requirements-dev.txt)" crl_install_development
}
