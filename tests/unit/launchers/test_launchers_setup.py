"""The environment setup's decisions, with stand-ins for the machine's own tools (python, apt-get, nvidia-smi, id)."""

import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.processes import heed_signals, wait_until
from tests.sequences import REPOSITORY

SETUP = REPOSITORY / "examples" / "setup_environment.sh"
COMMON = REPOSITORY / "examples" / "crl_experiment" / "common_functions.sh"
PYTHON_NAMES = ("python3", "python", "python3.14", "python3.13", "python3.12", "python3.11")


class Machine:
    """A folder of stand-in commands that comes first in PATH; each notes its calls."""

    def __init__(self, folder: Path) -> None:
        self.bin = folder / "bin"
        self.bin.mkdir()
        self.log = folder / "calls.log"
        self.log.touch()

    def command(self, name: str, body: str) -> None:
        """Install ``name``; ``body`` is bash and sees the arguments."""
        path = self.bin / name
        path.write_text(f'#!/bin/bash\nprintf "%s %s\\n" "{name}" "$*" >>"{self.log}"\n{body}\n')
        path.chmod(0o755)

    def run(self, code: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        """Source the setup and run ``code``."""
        return subprocess.run(
            ["/bin/bash", "-c", f'source "{SETUP}"\n{code}'],
            env={"PATH": f"{self.bin}:/usr/bin:/bin", "HOME": str(self.bin.parent), **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    @property
    def calls(self) -> list[str]:
        return self.log.read_text().splitlines()

    def pip_calls(self) -> list[str]:
        return [call.split("--no-input ", 1)[1] for call in self.calls if " -m pip install " in call]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


# ---------------------------------------------------------------------------------------------------------- Python


def test_an_old_python_is_refused(machine: Machine) -> None:
    for name in PYTHON_NAMES:
        machine.command(name, 'if [[ "$1" == --version ]]; then echo Python 3.9.18; else exit 1; fi')
    done = machine.run("crl_base_python")
    assert done.returncode == 2
    assert "Python 3.11 or newer is needed; found Python 3.9.18" in done.stderr


def test_a_newer_python_beside_an_old_one_is_found(machine: Machine) -> None:
    for name in PYTHON_NAMES:
        machine.command(name, "exit 1")
    machine.command("python3.12", "exit 0")
    done = machine.run("crl_base_python")
    assert done.stdout.strip() == str(machine.bin / "python3.12")


def test_a_python_without_venv_names_the_package(machine: Machine) -> None:
    body = 'case "$*" in *ensurepip*) exit 1 ;; *venv*) echo python3.12-venv ;; esac'
    machine.command("python3", body)
    code = f'CRL_ROOT="{machine.bin.parent}"\ncrl_activate'
    done = machine.run(code)
    assert done.returncode == 2
    assert "apt-get install -y python3.12-venv" in done.stderr


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"VIRTUAL_ENV": "/venv"}, "/venv/bin/python"),
        ({"CONDA_PREFIX": "/conda/envs/vlacrl", "CONDA_DEFAULT_ENV": "vlacrl"}, "/conda/envs/vlacrl/bin/python"),
        ({"CONDA_PREFIX": "/conda", "CONDA_DEFAULT_ENV": "base"}, "python3"),
        ({}, "python3"),
    ],
)
def test_which_python_runs_the_launchers(machine: Machine, environment: dict[str, str], expected: str) -> None:
    done = machine.run(f'CRL_ROOT="{machine.bin.parent}"\ncrl_python', **environment)
    assert done.stdout.strip() == expected


# ----------------------------------------------------------------------------------------------------------- torch

NO_TORCH = 'case "$*" in *importlib.metadata*) exit 1 ;; *--dry-run*) exit {dry_run} ;; esac'


def test_an_installed_torch_is_kept(machine: Machine) -> None:
    machine.command("python", "echo 2.12.0")
    done = machine.run("crl_install_torch")
    assert "torch 2.12.0 is there and kept" in done.stdout
    assert machine.pip_calls() == []


@pytest.mark.parametrize("index", ["", " --extra-index-url=https://download.pytorch.org/whl/cpu"])
def test_without_gpu_the_cpu_build_is_taken_from_where_it_is(machine: Machine, index: str) -> None:
    found = f'[[ "$*" == *"+cpu{index}"* ]] && exit 0 || exit 1'
    machine.command("python", f'case "$*" in *importlib.metadata*) exit 1 ;; *--dry-run*) {found} ;; esac')
    machine.command("nvidia-smi", "exit 9")
    assert machine.run("crl_install_torch").returncode == 0
    assert machine.pip_calls()[-1] == f"torch==2.13.0+cpu{index}"


def test_without_gpu_and_cpu_build_the_indexs_own_is_taken(machine: Machine) -> None:
    machine.command("python", NO_TORCH.format(dry_run=1))
    machine.command("nvidia-smi", "exit 9")
    done = machine.run("crl_install_torch")
    assert machine.pip_calls()[-1] == "torch==2.13.0"
    assert "no CPU build" in done.stdout


def test_with_gpu_the_plain_build_is_taken(machine: Machine) -> None:
    machine.command("python", NO_TORCH.format(dry_run=0))
    machine.command("nvidia-smi", 'echo "GPU 0: NVIDIA H200"')
    machine.run("crl_install_torch")
    assert machine.pip_calls() == ["torch==2.13.0"]


def test_torch_comes_first_and_simulator_packages_without_their_requirements(machine: Machine) -> None:
    machine.command("python", NO_TORCH.format(dry_run=1))
    machine.command("nvidia-smi", "exit 9")
    assert machine.run("crl_install_packages").returncode == 0
    torch, requirements, simulator, packages = [call for call in machine.pip_calls() if "--dry-run" not in call]
    assert torch == "torch==2.13.0"
    assert requirements == f"-r {REPOSITORY}/requirements.txt"
    assert simulator == f"--no-deps -r {REPOSITORY}/requirements-simulator.txt"
    names = ("transformers-openvla-oft", "openvla-oft", "LIBERO", ".")
    assert packages == " ".join(f"-e {REPOSITORY}/{name}" for name in names)


def test_what_is_installed_is_not_installed_again(machine: Machine, tmp_path: Path) -> None:
    machine.command("python", f'echo "{tmp_path}"')
    code = 'note() { echo work; }\nfor print in a a b b a; do crl_once thing "$print" note; done'
    assert machine.run(code).stdout.split() == ["work", "work", "work"]


def test_a_failed_installation_is_not_remembered(machine: Machine, tmp_path: Path) -> None:
    machine.command("python", f'echo "{tmp_path}"')
    done = machine.run("crl_once thing a false\necho not reached")
    assert done.returncode == 1
    assert "not reached" not in done.stdout
    assert not list(tmp_path.glob(".continual-vla-rl-*"))


# ---------------------------------------------------------------------------------------------------------- OpenGL


def without_opengl(machine: Machine, *, user_id: int, apt_works: bool) -> None:
    """OpenGL works once apt-get has installed OSMesa, which needs a package list first."""
    folder = machine.bin.parent
    machine.command(
        "python",
        f'[[ -e "{folder}/osmesa" ]] && echo osmesa && exit; echo "error: no off-screen OpenGL works" >&2; exit 2',
    )
    machine.command("id", f"echo {user_id}")
    update = f'touch "{folder}/lists"' if apt_works else "exit 100"
    machine.command(
        "apt-get",
        f'case "$*" in update) {update} ;; *) [[ -e "{folder}/lists" ]] || exit 100; touch "{folder}/osmesa" ;; esac',
    )


def test_a_working_opengl_is_only_reported(machine: Machine) -> None:
    machine.command("python", "echo egl")
    machine.command("apt-get", "exit 0")
    done = machine.run("crl_find_opengl")
    assert done.stdout == "== off-screen OpenGL: egl\n"
    assert not [call for call in machine.calls if call.startswith("apt-get")]


def test_root_installs_osmesa_updating_the_lists_when_needed(machine: Machine) -> None:
    without_opengl(machine, user_id=0, apt_works=True)
    done = machine.run("crl_find_opengl")
    assert done.returncode == 0, done.stderr
    assert "off-screen OpenGL: osmesa" in done.stdout
    assert [call for call in machine.calls if call.startswith("apt-get")] == [
        "apt-get install -y libosmesa6",
        "apt-get update",
        "apt-get install -y libosmesa6",
    ]


@pytest.mark.parametrize("user_id", [0, 1000])
def test_without_help_the_one_command_is_printed(machine: Machine, user_id: int) -> None:
    without_opengl(machine, user_id=user_id, apt_works=False)
    done = machine.run("crl_find_opengl")
    assert done.returncode == 2
    assert "error: no off-screen OpenGL works" in done.stderr
    assert "sudo apt-get update && sudo apt-get install -y libosmesa6" in done.stderr
    assert ("apt-get update" in machine.calls) == (user_id == 0)


# --------------------------------------------------------------------------------------------------------- signals


@pytest.mark.parametrize("code", [0, 3])
def test_crl_run_has_the_commands_exit_code(code: int) -> None:
    script = f'source "{COMMON}"; crl_run bash -c "exit {code}"'
    assert subprocess.run(["bash", "-c", script], check=False).returncode == code


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_crl_run_hands_signals_on_and_waits(tmp_path: Path, number: signal.Signals) -> None:
    inner = f'trap "sleep 0.3; touch {tmp_path}/tidied; exit 143" TERM; touch {tmp_path}/ready; sleep 20 & wait'
    script = f"source '{COMMON}'; crl_run bash -c '{inner}'; echo unreachable"
    process = subprocess.Popen(["bash", "-c", script], preexec_fn=heed_signals)
    assert wait_until((tmp_path / "ready").exists)
    os.kill(process.pid, number)
    assert process.wait(10) == 143
    assert (tmp_path / "tidied").exists()
