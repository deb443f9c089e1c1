"""What the command lines share."""

import os

import pytest

from libero_runtime import expert_table, fidelity_episodes
from libero_runtime.commands import OptionError, number_ranges, parse_numbers, run_command, use_one_thread
from libero_runtime.demos.cli import main as demos


def fail(error):
    raise error


def test_exit_status_of_a_command(capsys):
    assert run_command(lambda: 0) == 0
    assert run_command(lambda: 1) == 1
    assert run_command(lambda: fail(OptionError("--size 0 must be at least 1"))) == 2
    assert capsys.readouterr().err == "error: --size 0 must be at least 1\n"
    assert run_command(lambda: fail(KeyboardInterrupt())) == 130
    assert capsys.readouterr().err == "interrupted\n"
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


@pytest.mark.parametrize(
    ("command", "flags", "message"),
    [
        (demos, ["libero_spatial", "--out", "x", "--episodes", "0"], "--episodes-per-task 0 must be at least 1"),
        (demos, ["libero_spatial", "--out", "x", "--init-jitter", "nan"], "--init-jitter nan must be a finite number"),
        (demos, ["libero_spatial", "--out", "x", "--seed", "-1"], "--seed -1 must be at least 0"),
        (expert_table.main, ["--init-states", "0"], "--init-states 0 must be at least 1"),
        (fidelity_episodes.main, ["--jobs", "0"], "--jobs 0 must be at least 1"),
    ],
)
def test_numbers_that_do_not_fit_exit_with_2(capsys, command, flags, message):
    assert command(flags) == 2
    assert capsys.readouterr().err == f"error: {message}\n"


@pytest.mark.parametrize("command", [expert_table.main, fidelity_episodes.main])
def test_what_cannot_be_read_as_numbers_is_told(capsys, command):
    with pytest.raises(SystemExit) as end:
        command(["--tasks", "3-1"])
    assert end.value.code == 2
    assert "argument --tasks: expected numbers and ranges such as 0-3,7, given '3-1'" in capsys.readouterr().err


def test_lists_of_numbers():
    assert parse_numbers("0-3,7") == (0, 1, 2, 3, 7)
    for text in ("", "a", "3-1", "3-1,5", "1-", "-1", "²", "1,1", "0-99999999999"):
        with pytest.raises(OptionError):
            parse_numbers(text)


@pytest.mark.parametrize(
    ("numbers", "text"), [([], ""), ([4], "4"), ([2, 0, 1, 1], "0-2"), ([0, 1, 7, 9, 10], "0-1,7,9-10")]
)
def test_numbers_as_ranges(numbers, text):
    assert number_ranges(numbers) == text
