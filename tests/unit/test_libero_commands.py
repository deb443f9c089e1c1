"""What the command lines share."""

import os

import pytest

from libero_runtime.commands import OptionError, run_command, use_one_thread


def fail(error):
    raise error


def test_exit_status_of_a_command(capsys):
    assert run_command(lambda: 0) == 0
    assert run_command(lambda: 1) == 1
    assert run_command(lambda: fail(OptionError("--size 0 must be at least 1"))) == 2
    assert capsys.readouterr().err == "error: --size 0 must be at least 1\n"


def test_a_missing_package_is_named_with_what_installs_it(capsys):
    assert run_command(lambda: fail(ModuleNotFoundError("No module named 'mujoco'", name="mujoco"))) == 2
    message = capsys.readouterr().err
    assert "No module named 'mujoco'" in message
    assert "pip install -e LIBERO" in message


@pytest.mark.parametrize(
    "error", [RuntimeError("ours"), ImportError("cannot import name 'x'", name="libero_runtime.sim.scene")]
)
def test_our_own_mistakes_keep_their_traceback(error):
    with pytest.raises(type(error)):
        run_command(lambda: fail(error))


def test_one_thread(monkeypatch):
    libraries = ("OMP", "OPENBLAS", "MKL", "NUMBA", "LP")
    for library in libraries:
        monkeypatch.setenv(f"{library}_NUM_THREADS", "7")
    use_one_thread()
    assert [os.environ[f"{library}_NUM_THREADS"] for library in libraries] == ["1"] * 5
