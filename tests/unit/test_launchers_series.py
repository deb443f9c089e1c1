"""Several commands in one child: they share its process, and it ends as a child of one command does."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rlinf.cli.child import Series
from tests.processes import heed_signals, is_alive, python, wait_until

REPOSITORY = Path(__file__).resolve().parents[2]
INTERPRETER = """
import os, signal, sys, threading, time
from rlinf.cli.child import commands

def note(text):
    with open(sys.argv[1], "a") as log:
        log.write(f"{text}\\n")

note(os.getpid())
for code, in commands(int(sys.argv[2])):
    exec(code)
note("left")
"""


def start(log: Path) -> Series:
    """A child whose commands are Python code; ``note`` writes to ``log``, its process id first."""
    return Series([*python(INTERPRETER), str(log)], cwd=REPOSITORY, env=os.environ)


def start_launcher(log: Path, code: str) -> "subprocess.Popen[bytes]":
    """A process of its own that runs ``code`` with such a ``series``, once that has noted a 0."""
    launcher = (
        f"import sys, time\nfrom pathlib import Path\nfrom {__name__} import start\n"
        f"with start(Path({str(log)!r})) as series:\n    {code}"
    )
    process = subprocess.Popen(python(launcher), cwd=REPOSITORY, preexec_fn=heed_signals)
    assert wait_until(lambda: log.exists() and log.read_text().endswith("\n0\n"))
    return process


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


@pytest.fixture
def series(log: Path) -> Iterator[Series]:
    with start(log) as opened:
        yield opened


def test_commands_meet_in_one_process(series: Series, log: Path) -> None:
    assert series.run(["first = 1"], is_last=False) == 0
    assert series.run(["note(first + 1)"], is_last=True) == 0
    pid, *rest = log.read_text().split()
    assert rest == ["2", "left"], "the last command ends it"
    assert not is_alive(int(pid))


@pytest.mark.parametrize(("code", "expected"), [("sys.exit(3)", 3), ("os.kill(os.getpid(), 9)", 137), ("1 / 0", 1)])
def test_a_failing_command_gives_the_childs_exit_code(series: Series, code: str, expected: int) -> None:
    assert series.run(["pass"], is_last=False) == 0
    assert series.run([code], is_last=False) == expected


def test_a_child_that_dies_between_two_commands(series: Series, log: Path) -> None:
    assert series.run(["threading.Timer(0.1, os._exit, [9]).start()"], is_last=False) == 0
    assert wait_until(lambda: not is_alive(int(log.read_text())))
    assert series.run(["pass"], is_last=True) == 9


def test_a_series_that_is_left_early_lets_its_child_tidy_up(log: Path) -> None:
    with start(log) as series:
        assert series.run(["pass"], is_last=False) == 0
    pid, *rest = log.read_text().split()
    assert rest == ["left"]
    assert not is_alive(int(pid))


def test_signals_reach_the_child(log: Path) -> None:
    number = signal.SIGINT
    tidy = f"signal.signal({int(number)}, lambda *_: (note('tidied'), sys.exit(5)))"
    process = start_launcher(
        log,
        f"assert series.run([{tidy!r}], is_last=False) == 0; "
        "sys.exit(series.run(['note(0); time.sleep(60)'], is_last=False))",
    )
    process.send_signal(number)
    assert process.wait(10) == 128 + number
    pid, *rest = log.read_text().split()
    assert rest == ["0", "tidied"]
    assert not is_alive(int(pid))


@pytest.mark.skipif(sys.platform != "linux", reason="the parent-death signal is Linux's")
@pytest.mark.parametrize("command", ["note(0)", "note(0); time.sleep(60)"], ids=["idle", "busy"])
def test_a_killed_launcher_takes_the_child_along(log: Path, command: str) -> None:
    process = start_launcher(log, f"series.run([{command!r}], is_last=False); time.sleep(60)")
    process.kill()
    process.wait(10)
    assert wait_until(lambda: not is_alive(int(log.read_text().split()[0])))
