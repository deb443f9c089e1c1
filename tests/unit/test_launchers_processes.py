"""Children: true exit codes, signals handed on, nothing left behind; and how commands fail."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from rlinf.cli import run_sequence
from rlinf.cli.child import run_child
from rlinf.cli.console import UsageError, run_cli, user_message
from rlinf.config import Config, ConfigError, load_config
from rlinf.config.errors import DivergedError
from rlinf.custom.sequence.plan import TRAIN_SCRIPT
from rlinf.custom.sequence.recipe import Step
from tests.processes import heed_signals, is_alive, python, wait_until

REPOSITORY = Path(__file__).resolve().parents[2]


def start_parent(
    tmp_path: Path, child_code: str, grace_seconds: float = 30.0, wrapper: Sequence[str] = ()
) -> tuple["subprocess.Popen[bytes]", int]:
    """A process that runs ``child_code`` by ``run_child``; returns it and the child's pid, once the child is ready."""
    ready = tmp_path / "ready"
    child = f"import os\n{child_code}\n"
    child = child.replace("READY", f"open({str(ready)!r}, 'w').write(str(os.getpid()))")
    parent = (
        "import os, sys\nfrom pathlib import Path\nfrom rlinf.cli.child import run_child\n"
        f"sys.exit(run_child([sys.executable, '-c', {child!r}], cwd=Path('.'), env=os.environ, "
        f"grace_seconds={grace_seconds}))"
    )
    process = subprocess.Popen(
        [*wrapper, *python(parent)], cwd=REPOSITORY, stdout=subprocess.DEVNULL, preexec_fn=heed_signals
    )
    assert wait_until(lambda: ready.exists() and bool(ready.read_text()))
    return process, int(ready.read_text())


@pytest.mark.parametrize(
    ("code", "expected"),
    [("pass", 0), ("raise SystemExit(7)", 7), ("import os; os.kill(os.getpid(), 9)", 137), ("1 / 0", 1)],
)
def test_exit_codes_are_true(code: str, expected: int) -> None:
    assert run_child(python(code), cwd=REPOSITORY, env=os.environ) == expected


def test_a_child_cannot_prompt() -> None:
    assert run_child(python("import sys; sys.exit(sys.stdin.read() != '')"), cwd=REPOSITORY, env=os.environ) == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_reach_the_child_which_may_tidy_up(tmp_path: Path, number: signal.Signals) -> None:
    tidied = tmp_path / "tidied"
    code = (
        "import signal, time\n"
        f"def tidy(n, f):\n open({str(tidied)!r}, 'w').write(str(n))\n raise SystemExit(5)\n"
        f"signal.signal({int(number)}, tidy)\nREADY\ntime.sleep(60)"
    )
    process, child = start_parent(tmp_path, code)
    process.send_signal(number)
    assert process.wait(10) == 128 + number
    assert tidied.read_text() == str(int(number))
    assert not is_alive(child)


def test_nohup_is_respected(tmp_path: Path) -> None:
    process, child = start_parent(tmp_path, "import time\nREADY\ntime.sleep(60)", wrapper=["nohup"])
    process.send_signal(signal.SIGHUP)
    time.sleep(0.5)
    assert process.poll() is None
    assert is_alive(child)
    process.terminate()
    assert process.wait(10) == 128 + signal.SIGTERM
    assert not is_alive(child)


def test_a_child_that_ignores_signals_is_killed_after_its_grace(tmp_path: Path) -> None:
    code = "import signal, time\nsignal.signal(15, signal.SIG_IGN)\nREADY\ntime.sleep(60)"
    process, child = start_parent(tmp_path, code, grace_seconds=0.3)
    process.terminate()
    assert process.wait(10) == 128 + signal.SIGTERM
    assert not is_alive(child)


@pytest.mark.skipif(sys.platform != "linux", reason="the parent-death signal is Linux's")
def test_a_killed_parent_takes_its_child_along(tmp_path: Path) -> None:
    process, child = start_parent(tmp_path, "import time\nREADY\ntime.sleep(60)")
    process.kill()
    process.wait(10)
    assert wait_until(lambda: not is_alive(child))


def test_what_a_child_leaves_running_is_ended(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    code = (
        "import subprocess, sys\n"
        "left = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        f"open({str(pid_file)!r}, 'w').write(str(left.pid))"
    )
    assert run_child(python(code), cwd=REPOSITORY, env=os.environ) == 0
    assert not is_alive(int(pid_file.read_text()))


# ------------------------------------------------------------------------------------------------ running a plan


def step(folder: Path, name: str, code: str, todo: tuple[str, ...] = ("train",)) -> Step:
    """A step whose command is a real script that notes that it ran."""
    script = folder / f"{name}.py"
    script.write_text(f"from pathlib import Path\nPath({str(folder / name)!r}).mkdir()\n{code}\n")
    result = str(folder / name)
    return Step(name, str(folder), start=None, result=result, command=(str(script),), config=Config(), todo=todo)


def test_steps_run_in_order_and_done_ones_are_skipped(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    first = step(tmp_path, "first", "", todo=())
    second = step(tmp_path, "second", "print('second at work')")
    third = step(tmp_path, "third", f"assert Path({str(tmp_path / 'second')!r}).exists()")
    assert run_sequence.run_steps([first, second, third]) == 0
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["second", "third"]
    output = capfd.readouterr().out
    assert "[1/3] first: done before, skipped" in output
    assert output.index("[2/3] second: train") < output.index("second at work") < output.index("[3/3] third")


def test_a_failed_step_ends_the_sequence_with_its_exit_code(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    first = step(tmp_path, "first", "raise SystemExit(3)")
    second = step(tmp_path, "second", "")
    assert run_sequence.run_steps([first, second]) == 3
    assert not (tmp_path / "second").exists()
    assert "first failed with exit code 3" in capfd.readouterr().err


def test_a_step_that_was_asked_for_wrongly_has_said_so_itself(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """One message: the same command would not continue anything."""
    only = step(tmp_path, "only", "import sys; print('error: no such file', file=sys.stderr); raise SystemExit(2)")
    assert run_sequence.run_steps([only]) == 2
    assert capfd.readouterr().err == "error: no such file\n"


def test_a_step_without_its_checkpoint_is_a_failure(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    only = step(tmp_path, "only", f"Path({str(tmp_path / 'only')!r}).rmdir()")
    assert run_sequence.run_steps([only]) == 1
    assert "without the checkpoint it should have written" in capfd.readouterr().err


def training(title: str, *words: str) -> Step:
    """A step of training, which is done by the command that trains."""
    tiny = "crl_experiment/libero_spatial_grpo_tiny"
    command = (TRAIN_SCRIPT, "--config-name", tiny, *words)
    config = load_config(tiny, [word for word in words if not word.startswith("--")])
    return Step(title, "as configured", start=None, result=None, command=command, config=config, todo=("train",))


def test_training_steps_follow_their_headings(capfd: pytest.CaptureFixture[str]) -> None:
    steps = [training("first", "runner.seed=11", "--cfg"), training("second", "runner.seed=22", "--cfg")]
    assert run_sequence.run_steps(steps) == 0
    output = capfd.readouterr().out
    positions = [output.index(part) for part in ("[1/2] first", "seed: 11", "[2/2] second", "seed: 22")]
    assert positions == sorted(positions)


def test_a_training_step_that_was_asked_for_wrongly_ends_the_sequence(capfd: pytest.CaptureFixture[str]) -> None:
    wrong = training("second", "env.fixed_task_ids=[99]")
    assert run_sequence.run_steps([training("first", "--cfg"), wrong, training("third", "--cfg")]) == 2
    captured = capfd.readouterr()
    assert captured.err.startswith("error: env.fixed_task_ids")
    assert captured.err.count("\n") == 1
    assert "third" not in captured.out


def test_the_child_finds_the_repository_and_ray_stays_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/mine")
    environment = run_sequence.child_environment()
    assert environment["PYTHONPATH"] == f"{REPOSITORY}:/mine"
    assert environment["RAY_USAGE_STATS_ENABLED"] == "0"


# --------------------------------------------------------------------------------------------------- how to fail


def exit_code(main: Callable[[Sequence[str]], int]) -> object:
    with pytest.raises(SystemExit) as caught:
        run_cli(main, [])
    return caught.value.code


def failing(error: BaseException) -> Callable[[Sequence[str]], int]:
    def main(argv: Sequence[str]) -> int:
        raise error

    return main


def test_a_user_error_is_one_message_and_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(failing(ConfigError("lr must be greater than 0, got -1"))) == 2
    assert capsys.readouterr().err == "error: lr must be greater than 0, got -1\n"


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


def test_a_workers_user_error_is_recognised() -> None:
    class TaskError(RuntimeError):
        """How Ray hands an exception over."""

        def __init__(self, cause: Exception) -> None:
            super().__init__("traceback of the worker")
            self.cause = cause

    assert user_message(TaskError(UsageError("no OpenGL"))) == "no OpenGL"
    assert user_message(TaskError(ValueError("from a library"))) is None
    assert user_message(TaskError(DivergedError("policy loss is nan"))) == "policy loss is nan"


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
