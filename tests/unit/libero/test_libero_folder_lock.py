"""One process at a time in a folder: the other is named, and what a dead one left is no obstacle."""

import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from libero_runtime.files import FolderInUseError, only_one

HOLD = """
import sys
from pathlib import Path
from libero_runtime import files
with files.only_one(Path(sys.argv[1]), doing="sleeping in", advice="", command="a test"):
    print("in", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def elsewhere(tmp_path):
    """A process that holds tmp_path/run; ends with its standard input."""
    command = [sys.executable, "-c", HOLD, str(tmp_path / "run")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "in\n"
        yield process
        process.kill()


def try_lock(folder: Path) -> None:
    with only_one(folder, doing="writing to", advice="Wait."):
        pass


def no_locks(*_):
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))


def test_the_other_process_is_named(tmp_path, elsewhere):
    with pytest.raises(FolderInUseError) as caught:
        try_lock(tmp_path / "run")
    text = str(caught.value)
    assert text.startswith(f"another process is writing to {tmp_path / 'run'}: process {elsewhere.pid} on ")
    assert "(a test). Wait." in text
    with only_one(tmp_path / "run", doing="", advice="", name=".other"):
        pass
    elsewhere.communicate()
    try_lock(tmp_path / "run")


def test_nothing_is_left_of_it(tmp_path):
    with only_one(tmp_path / "a" / "b", doing="", advice=""):
        assert json.loads((tmp_path / "a" / "b" / ".lock").read_text())["pid"] == os.getpid()
    assert list(tmp_path.iterdir()) == [], "folders that nobody wrote into go too"
    (tmp_path / "a").mkdir()
    with only_one(tmp_path / "a" / "b", doing="", advice=""):
        (tmp_path / "a" / "b" / "result").touch()
    assert [path.name for path in tmp_path.rglob("*")] == ["a", "b", "result"]
    with only_one(tmp_path / "a", doing="", advice=""), pytest.raises(FolderInUseError):
        try_lock(tmp_path / "a")


def test_a_killed_process_has_no_lock(tmp_path, elsewhere):
    os.kill(elsewhere.pid, signal.SIGKILL)
    elsewhere.wait()
    assert (tmp_path / "run" / ".lock").is_file()
    try_lock(tmp_path / "run")
    assert not (tmp_path / "run" / ".lock").exists()


def test_a_folder_that_is_renamed_meanwhile(tmp_path):
    """The name may be another's by then."""
    with only_one(tmp_path / "run", doing="", advice=""):
        (tmp_path / "run").rename(tmp_path / "done")
        with only_one(tmp_path / "run", doing="", advice=""):
            (tmp_path / "run" / "file").touch()
        (tmp_path / "run" / ".lock").touch()
    assert (tmp_path / "run" / ".lock").exists()


def test_where_there_are_no_locks_the_text_decides(tmp_path, elsewhere, monkeypatch):
    monkeypatch.setattr(fcntl, "flock", no_locks)
    with pytest.raises(FolderInUseError, match=f"process {elsewhere.pid} on .* If it has ended, remove .*lock"):
        try_lock(tmp_path / "run")
    os.kill(elsewhere.pid, signal.SIGKILL)
    elsewhere.wait()
    monkeypatch.setattr(socket, "gethostname", lambda: "another machine")
    with pytest.raises(FolderInUseError, match=f"process {elsewhere.pid} on "):
        try_lock(tmp_path / "run")
    monkeypatch.undo()
    monkeypatch.setattr(fcntl, "flock", no_locks)
    try_lock(tmp_path / "run")


def test_one_of_many_gets_it(tmp_path):
    """Started at the same moment, again and again."""
    code = """
import sys, time
from pathlib import Path
from libero_runtime.files import FolderInUseError, only_one
folder = Path(sys.argv[1])
for _ in range(200):
    try:
        with only_one(folder, doing="", advice=""):
            (folder / "inside").open("x").close()
            time.sleep(0.001)
            (folder / "inside").unlink()
    except FolderInUseError:
        pass
"""
    command = [sys.executable, "-c", code, str(tmp_path / "run")]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(3)]
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors


@pytest.mark.parametrize("parent", ["file", "/proc"])
def test_a_folder_that_cannot_be_made(tmp_path, parent):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="/x'"), only_one(tmp_path / parent / "x", doing="testing in", advice=""):
        pass
