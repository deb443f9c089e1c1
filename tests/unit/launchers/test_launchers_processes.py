"""Carrying out plans: order, signals, exit codes; and how commands fail."""

import signal
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from rlinf.cli.console import run_cli, user_message
from rlinf.cli.steps import run_steps
from rlinf.config import ConfigError, load_config
from rlinf.custom.sequence.recipe import TRAIN_SCRIPT, Step
from tests.processes import heed_signals, python, wait_until
from tests.sequences import REPOSITORY, TINY, save

WAITING = """
import sys, time
from pathlib import Path
from rlinf.cli.console import configure_process, run_cli

def main(argv):
    configure_process()
    try:
        Path(argv[0], "ready").touch()
        time.sleep(60)
    finally:
        Path(argv[0], "tidied").touch()

run_cli(main)
"""


def start_waiting(folder: Path, *wrapper: str) -> "subprocess.Popen[bytes]":
    """A command that waits for a minute, once it does."""
    process = subprocess.Popen(
        [*wrapper, *python(WAITING), str(folder)], cwd=REPOSITORY, stdout=subprocess.DEVNULL, preexec_fn=heed_signals
    )
    assert wait_until((folder / "ready").exists, 30)
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_lets_a_command_tidy_up(tmp_path: Path, number: signal.Signals) -> None:
    process = start_waiting(tmp_path)
    process.send_signal(number)
    assert process.wait(10) == 128 + number
    assert (tmp_path / "tidied").exists()


def test_nohup_is_respected(tmp_path: Path) -> None:
    process = start_waiting(tmp_path, "nohup")
    process.send_signal(signal.SIGHUP)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.5)
    process.terminate()
    assert process.wait(10) == 128 + signal.SIGTERM


# ------------------------------------------------------------------------------------------------ carrying out a plan


@pytest.fixture
def trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Step:
    """The training of a task of which all epochs are done, so that it ends at once."""
    monkeypatch.chdir(tmp_path)
    overrides = (
        "runner.max_epochs=1",
        "runner.eval_after=false",
        f"runner.logger.log_path={tmp_path / 'task_0_seed7'}",
    )
    return Step(
        "task 0",
        str(tmp_path / "task_0_seed7"),
        start=None,
        result=str(save(tmp_path / "task_0_seed7", 1)),
        command=(TRAIN_SCRIPT, "--config-name", TINY, *overrides),
        config=load_config(TINY, overrides),
        todo=("train to epoch 1",),
    )


def test_steps_follow_their_headings_up_to_one_that_cannot_be_done(
    trained: Step, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = replace(trained.config, env=replace(trained.config.env, fixed_task_ids=[99]))
    steps = [replace(trained, todo=()), trained, replace(trained, title="wrong", config=wrong), trained]
    with pytest.raises(ConfigError, match=r"env.fixed_task_ids=\[99\]: task 99 is not in"):
        run_steps(steps)
    headings = [line for line in capsys.readouterr().out.splitlines() if line.startswith("[")]
    assert headings == [
        f"[1/4] task 0: done before, skipped ({trained.result})",
        "[2/4] task 0: train to epoch 1",
        "[3/4] wrong: train to epoch 1",
    ]


def test_a_step_without_its_checkpoint_is_a_failure(trained: Step, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_steps([replace(trained, result="logs/nowhere")]) == 1
    assert "without the checkpoint it should have written: logs/nowhere" in capsys.readouterr().err


# --------------------------------------------------------------------------------------------------- how to fail


def exit_code(main: Callable[[Sequence[str]], int]) -> object:
    with pytest.raises(SystemExit) as caught:
        run_cli(main, [])
    return caught.value.code


def failing(error: BaseException) -> Callable[[Sequence[str]], int]:
    def main(argv: Sequence[str]) -> int:
        raise error

    return main


def test_success_and_interruption() -> None:
    assert exit_code(lambda argv: 0) == 0
    assert exit_code(failing(KeyboardInterrupt())) == 130


def test_a_bug_keeps_its_traceback() -> None:
    def bug(argv: Sequence[str]) -> int:
        return len({}["missing"])

    with pytest.raises(KeyError):
        run_cli(bug, [])
    with pytest.raises(RuntimeError):
        run_cli(failing(RuntimeError("CUDA error")), [])


def test_a_value_error_inside_a_library_is_a_bug_but_ours_is_not() -> None:
    import json

    def library(argv: Sequence[str]) -> int:
        return int(json.loads("{"))

    with pytest.raises(json.JSONDecodeError):
        run_cli(library, [])
    assert exit_code(failing(ValueError("raised in this repository"))) == 2


def test_a_missing_package_says_how_to_install() -> None:
    message = user_message(ModuleNotFoundError("No module named 'hydra'", name="hydra"))
    assert message is not None
    assert "'hydra' is not installed" in message
    assert "bash examples/quickstart.sh" in message
    assert user_message(ModuleNotFoundError("No module named 'rlinf.gone'", name="rlinf.gone")) is None


def test_a_closed_pipe_is_quiet() -> None:
    code = (
        "from rlinf.cli.console import run_cli\nrun_cli(lambda argv: [print('x' * 99) for _ in range(9999)] and 0, [])"
    )
    writer = subprocess.Popen(python(code), cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert writer.stdout is not None
    assert writer.stderr is not None
    writer.stdout.close()
    assert writer.wait(20) == 128 + signal.SIGPIPE
    assert writer.stderr.read() == b""
    writer.stderr.close()
