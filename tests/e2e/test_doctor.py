"""What the doctor says of machines and configurations that will not do, and of this one."""

import os
import socket
import subprocess
import sys

import psutil
import pytest

from libero_runtime import opengl
from rlinf.cli import doctor
from rlinf.cli.request import Request
from tests.launchers import REPOSITORY, TINY, request

GIB = 2**30


def found(capsys, name, test) -> list[str]:
    """Lines of a check."""
    doctor.show(name, test)
    return capsys.readouterr().out.splitlines()


def test_packages_and_python_are_compared_with_what_is_wanted(tmp_path, capsys):
    (tmp_path / "requirements.txt").write_text(
        "# a comment\nnumpy>=99  # why\nno-such-package==1.0 --hash=sha256:00\ntorch>=2\n"
    )
    (tmp_path / "pyproject.toml").write_text('[project]\nrequires-python = ">=4"\n')
    files = [tmp_path / "requirements.txt"], tmp_path / "pyproject.toml"
    python, numpy, missing, fine = found(capsys, "packages", lambda: doctor.packages(*files))
    assert python.startswith("problem  packages: Python 3.")
    assert "numpy>=99 is wanted, found" in numpy
    assert "no-such-package==1.0 is wanted, not installed" in missing
    assert fine == "ok       packages: 1 packages as required"


def test_one_cpu_is_few(tmp_path, capsys):
    for name, text in {"proc/self/cgroup": "0::/", "sys/fs/cgroup/cpu.max": "50000 100000"}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (line,) = found(capsys, "CPUs", lambda: doctor.cpus(tmp_path))
    assert line.startswith("warning  CPUs: ours: 1: ")


def test_a_gpu_that_torch_does_not_see(tmp_path, capsys, monkeypatch):
    driver = tmp_path / "nvidia-smi"
    driver.write_text("#!/bin/sh\necho NVIDIA H200, 143771 MiB, 570.1\n")
    driver.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    listed, problem = found(capsys, "GPU", doctor.gpus)
    assert listed == "ok       GPU: GPU 0: NVIDIA H200, 143771 MiB, 570.1"
    assert problem.startswith("problem  GPU: torch ")
    assert "hides it" in problem
    driver.write_text("#!/bin/sh\necho no driver; exit 9\n")
    assert "problem  GPU: nvidia-smi fails: no driver" in found(capsys, "GPU", doctor.gpus)[0]


def test_opengl_that_does_not_draw(capsys, monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "glx")
    monkeypatch.delenv(opengl._CHECKED, raising=False)
    (line,) = found(capsys, "simulator", lambda: doctor.simulator("libero_spatial", has_gpu=False))
    assert line.startswith("problem  simulator: MUJOCO_GL='glx' cannot render off-screen")


@pytest.mark.parametrize(
    ("override", "said"),
    [("env.suit=libero_goal", "Did you mean env.suite?"), ("actor.checkpoint_load_path=no/model", "does not exist: ")],
)
def test_a_configuration_that_cannot_be(override, said, capsys):
    requests: list[Request] = []
    words = [override, "rollout.model_dir=no/model"]
    problem, *_ = found(capsys, "configuration", lambda: doctor.configuration(TINY, words, requests))
    assert problem.startswith("problem  configuration: ")
    assert said in problem
    assert not requests


def test_what_a_configuration_needs_and_there_is_not(small_policy, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("RAY_OBJECT_STORE_ALLOW_SLOW_STORAGE", raising=False)
    large = request(small_policy, "algorithm.rollout_epoch=2000", f"runner.logger.log_root={tmp_path}")
    (shared,) = found(capsys, "shared memory", lambda: doctor.shared_memory(large, shared=2**26))
    assert shared.startswith("problem  shared memory: Ray's object store")
    small = request(small_policy, "runner.keep_checkpoints=1", f"runner.logger.log_root={tmp_path}")
    assert found(capsys, "shared memory", lambda: doctor.shared_memory(small))[0].startswith("ok ")
    (memory,) = found(capsys, "memory", lambda: doctor.memory(small, available=GIB))
    assert memory.startswith("warning  memory: 1.0 GiB available")
    (memory,) = found(capsys, "memory", lambda: doctor.memory(small, available=2**20))
    assert memory.startswith("problem  memory: 0.0 GiB available")
    assert found(capsys, "memory", lambda: doctor.memory(small, available=64 * GIB))[0].startswith("ok ")
    disk, _ = found(capsys, "results", lambda: doctor.results(small, free=1))
    assert disk.startswith("problem  results: ")
    assert "about 2 checkpoint(s) of 0.0022 GiB" in disk


def test_results_that_cannot_be_written(small_policy, tmp_path, capsys):
    (tmp_path / "file").touch()
    asked = request(small_policy, f"runner.logger.log_root={tmp_path / 'file'}")
    (line,) = found(capsys, "results", lambda: doctor.results(asked))
    assert line.startswith("problem  results: nothing can be written to ")


def test_nobody_has_logged_in_to_wandb(small_policy, tmp_path, capsys, monkeypatch):
    for name in [name for name in os.environ if name.startswith(("WANDB", "NETRC"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    asked = request(small_policy, f"runner.logger.log_root={tmp_path}", "runner.logger.logger_backends=[wandb]")
    (line,) = found(capsys, "results", lambda: doctor.results(asked))
    assert line.startswith("problem  results: runner.logger.logger_backends has wandb, ")


def test_no_folder_for_temporary_files(tmp_path, capsys, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "file"))
    (line,) = found(capsys, "temporary files", doctor.temporary_files)
    assert line.startswith("problem  temporary files: Ray has no folder")


def test_a_cluster_that_does_not_answer(capsys, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    (line,) = found(capsys, "Ray", doctor.ray_cluster)
    assert line.startswith("problem  Ray: RAY_ADDRESS=127.0.0.1:1: nothing answers")


def test_ports_that_others_reach_are_told_from_those_that_they_do_not():
    with socket.create_server(("127.0.0.1", 0)) as inside, socket.create_server(("127.0.0.2", 0)) as other:
        ports = doctor.open_ports(psutil.Process())
        assert other.getsockname()[1] in ports
        assert inside.getsockname()[1] not in ports


def test_a_check_that_breaks_is_a_problem(capsys):
    assert doctor.show("division", lambda: iter([("ok", str(1 / 0))])) == ["problem"]
    assert capsys.readouterr().out == "problem  division: ZeroDivisionError: division by zero\n"


@pytest.mark.slow
def test_the_whole_of_it_here(tmp_path):
    command = [sys.executable, "-m", "rlinf.cli.doctor", f"runner.logger.log_root={tmp_path}"]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=300, check=False)
    *lines, verdict = done.stdout.splitlines()
    assert done.returncode == 0, done.stdout + done.stderr
    assert verdict.startswith("It will run: no problems")
    checked = {line[9:].partition(":")[0] for line in lines}
    of_it = {"configuration", "memory", "shared memory", "results"}
    assert checked == {"packages", "CPUs", "GPU", "simulator", "temporary files", "Ray"} | of_it
    assert "ok       Ray: it listens on the loopback interface alone" in lines
