"""The simulator's benchmark: what it refuses, and what one of its tables says."""

import re

import pytest

from benchmarks import simulator


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--suite", "libero_nowhere"], "unknown suite 'libero_nowhere'"),
        (["--task", "10"], "task id 10 is out of range"),
        (["--envs", "0"], "--envs 0 must be at least 1"),
        (["--seconds", "0"], "--seconds 0.0 more than 0"),
    ],
)
def test_what_cannot_run_ends_with_one_message(arguments, message, capsys):
    assert simulator.main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert message in captured.err


def test_without_opengl(monkeypatch, capsys):
    monkeypatch.setenv("MUJOCO_GL", "glfw")
    assert simulator.main([]) == 2
    assert capsys.readouterr().err.startswith("error: MUJOCO_GL='glfw' cannot render off-screen")


def test_memory_is_per_process_and_per_environment(capsys):
    assert simulator.main(["--processes", "1", "--envs", "4", "--seconds", "0.2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    numbers = {
        line.split("|")[1].strip(): [float(cell) for cell in re.findall(r"[\d.]+", line.split("|", 2)[2])]
        for line in lines[2:]
    }
    (stock, ours, _), (stock_env, ours_env, ratio) = (
        numbers[f"memory per {of} (MB)"] for of in ("process", "environment")
    )
    assert stock_env == stock
    assert ours_env == pytest.approx(ours / 4, rel=0.01)
    assert ratio == pytest.approx(stock / ours_env, rel=0.01)
