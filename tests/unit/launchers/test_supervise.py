"""What dies is started again, what is over is not, and nothing is left behind."""

import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.processes import heed_signals, python, wait_until

SCRIPT = """
import errno, os, signal, subprocess, sys, time
from pathlib import Path
from rlinf.cli import supervise as module
from rlinf.cli.console import UsageError, configure_process, run_cli
from rlinf.cli.supervise import supervise

module.FULL_S, module.GRACE_S = 0.2, 0.5

folder, deaths, saves, limit = Path(sys.argv[1]), sys.argv[2], sys.argv[3] == "saves", int(sys.argv[4])

def work(is_first):
    configure_process()
    number = len(list(folder.glob("attempt_*")))
    (folder / f"attempt_{number}").write_text(f"{os.getpid()} {is_first}")
    how = deaths.split(",")[number]
    if how == "leave":  # a process of its own session, as Ray's are
        child = subprocess.Popen(["sleep", "100"], start_new_session=True)
        (folder / "left").write_text(str(child.pid))
    if how in ("kill", "leave"):
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "bug":
        raise RuntimeError("CUDA error")
    if how == "worker":
        from rlinf.scheduler.worker_group import WorkerError

        raise WorkerError("actor: a worker died")
    if how == "stutter":
        raise RuntimeError(f"CUDA error {number}")
    if how == "full":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/data/metrics.jsonl")
    if how == "wrapped":  # as libraries do
        full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/data/metrics.jsonl")
        raise RuntimeError("unable to write file") from full
    if how == "typo":
        return lenn(deaths)
    if how == "mistake":
        raise UsageError("lr must be greater than 0")
    if how == "wait":
        try:
            (folder / "ready").touch()
            time.sleep(60)
        finally:
            (folder / "tidied").touch()
    return 0

def progress():
    return len(list(folder.glob("attempt_*"))) if saves else 0

run_cli(lambda argv: supervise(work, progress, max_restarts=limit))
"""


def start(folder: Path, deaths: str, *, saves: bool = False, limit: int = 3) -> "subprocess.Popen[str]":
    words = [*python(SCRIPT), str(folder), deaths, "saves" if saves else "", str(limit)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heed_signals)


def finish(process: "subprocess.Popen[str]") -> tuple[int, str]:
    out, err = process.communicate(timeout=60)
    return process.returncode, out + err


def attempts(folder: Path) -> list[str]:
    return [path.read_text().split()[1] for path in sorted(folder.glob("attempt_*"))]


def test_what_dies_is_started_again(tmp_path: Path) -> None:
    code, text = finish(start(tmp_path, "kill,bug,done"))
    assert (code, attempts(tmp_path)) == (0, ["True", "False", "False"])
    assert "the run was killed by signal 9; it goes on from what was saved, restart 1 of 3" in text
    assert "RuntimeError: CUDA error" in text
    assert "the run failed (exit code 1); it goes on from what was saved, restart 2 of 3" in text


@pytest.mark.parametrize("deaths", ["full,full,done", "wrapped,wrapped,done"])
def test_a_full_disk_is_waited_for(tmp_path: Path, deaths: str) -> None:
    code, text = finish(start(tmp_path, deaths))
    assert (code, len(attempts(tmp_path))) == (0, 3)
    assert text.count("error: /data/metrics.jsonl: No space left on device; free some space") == 2


def test_a_disk_that_stays_full_is_a_users_error(tmp_path: Path) -> None:
    code, text = finish(start(tmp_path, "full,full,done", limit=1))
    assert (code, len(attempts(tmp_path))) == (2, 2)
    assert "Traceback" not in text


@pytest.mark.parametrize(("saves", "expected"), [(False, 3), (True, 5)])
def test_without_progress_it_gives_up(tmp_path: Path, saves: bool, expected: int) -> None:
    code, text = finish(start(tmp_path, "kill,kill,kill,kill,done", saves=saves, limit=2))
    assert len(attempts(tmp_path)) == expected
    assert code == (0 if saves else 128 + signal.SIGKILL)
    assert ("2 restarts gave no new checkpoint" in text) is not saves


@pytest.mark.parametrize(
    ("deaths", "limit", "expected"), [("mistake", 3, 2), ("typo", 3, 1), ("bug", 0, 1), ("done", 3, 0)]
)
def test_what_is_over_is_not_tried_again(tmp_path: Path, deaths: str, limit: int, expected: int) -> None:
    code, text = finish(start(tmp_path, deaths, limit=limit))
    assert (code, len(attempts(tmp_path))) == (expected, 1)
    assert "goes on" not in text


@pytest.mark.parametrize(
    ("deaths", "saves", "expected"),
    [("bug,bug,done", False, (1, 2)), ("bug,bug,done", True, (0, 3)), ("stutter,stutter,done", False, (0, 3)),
     ("bug,kill,bug,done", False, (0, 4)), ("worker,worker,done", False, (0, 3))],
    ids=["the same", "the same, later", "other words", "not in a row", "a worker's death"],
)  # fmt: skip
def test_the_same_error_twice_is_not_tried_again(tmp_path: Path, deaths: str, saves: bool, expected: tuple[int, int]):
    code, text = finish(start(tmp_path, deaths, saves=saves))
    assert (code, len(attempts(tmp_path))) == expected
    assert ("a second time with the same words" in text) is (code == 1)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize("to_all", [False, True], ids=["to the launcher", "to the group"])
def test_a_signal_from_outside_ends_it(tmp_path: Path, number: signal.Signals, to_all: bool) -> None:
    def own_group() -> None:
        heed_signals()
        os.setpgid(0, 0)

    words = [*python(SCRIPT), str(tmp_path), "wait,done", "", "3"]
    process = subprocess.Popen(words, stderr=subprocess.DEVNULL, preexec_fn=own_group)
    assert wait_until((tmp_path / "ready").exists, 30)
    (os.killpg if to_all and number != signal.SIGINT else os.kill)(process.pid, number)
    assert process.wait(20) == 128 + number
    assert (tmp_path / "tidied").exists()
    assert len(attempts(tmp_path)) == 1


def test_a_launcher_that_is_killed_takes_its_run_along(tmp_path: Path) -> None:
    process = start(tmp_path, "wait")
    assert wait_until((tmp_path / "ready").exists, 30)
    process.kill()
    assert wait_until((tmp_path / "tidied").exists, 20)
    process.communicate(timeout=20)


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    code, _ = finish(start(tmp_path, "leave,done"))
    assert code == 0
    assert not Path("/proc", (tmp_path / "left").read_text()).exists()
