"""One process at a time in a folder, of one machine or of several that share it.

The lock is the kernel's (flock): it ends with its process, however that ends, and NFS and most cluster file systems
keep it between machines. The file that is locked says who has it. Where a file system has no such locks, or keeps them
apart by machine, this text and its time count: who has the lock renews the time every few seconds, and who finds the
text of another machine watches it for a while.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import shlex
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

logger = logging.getLogger(__name__)

LOCK_FILE = ".lock"
BEAT_S = 5.0
WATCH_S = 4 * BEAT_S  # file servers may answer from memory that is some seconds old
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


class FolderInUseError(ValueError):
    """Another process works in a folder; the message says which."""


@contextmanager
def only_one(
    folder: Path, *, doing: str, advice: str, name: str = LOCK_FILE, command: str | None = None
) -> Iterator[None]:
    """Keep other processes out of a folder, which is made; what a dead one left of its lock is taken over.

    doing, advice: for who is refused, such as "training in" and what can be done.
    name: of the file, which is there as long as the lock is. command: for the message; None: this process's.

    Raises:
        FolderInUseError: another process has the lock.
    """
    path = folder / name
    made = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    file = _locked(path, refusal=lambda holder: f"another process is {doing} {folder}{holder}. {advice}")
    stop = threading.Event()
    beat = threading.Thread(target=_beat, args=(file, stop), daemon=True)
    try:
        beat.start()
        _note(file, shlex.join(sys.orig_argv) if command is None else command)
        yield
    finally:
        stop.set()
        beat.join()
        if _is_at(path, file):  # the folder may have been renamed, and its name be another's by now
            path.unlink()
        file.close()
        with suppress(OSError):  # somebody wrote into it, which is what it was made for
            for parent in made:
                parent.rmdir()


def _locked(path: Path, *, refusal: Callable[[str], str]) -> TextIO:
    """The file at ``path``, open and locked."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            file = path.open("a+", encoding="utf-8")
        except FileNotFoundError:  # the folder was removed meanwhile
            continue
        try:
            is_sure = _flock(file)
            if not _is_at(path, file):  # who had it has just ended, and removed it
                file.close()
                continue
            holder = _read(file)
            if holder and not (is_sure and holder.get("machine") == _machine()) and _is_renewed(path):
                raise BlockingIOError
        except BlockingIOError as error:
            holder = _read(file, wait=True)
            file.close()
            raise FolderInUseError(refusal(_words(holder))) from error
        except BaseException:
            file.close()
            raise
        return file


def _flock(file: TextIO) -> bool:
    """Lock, or raise ``BlockingIOError``; False where the file system has no locks."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        return False
    return True


def _is_at(path: Path, file: TextIO) -> bool:
    """Whether the open file still has its name."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _machine() -> str:
    """What no other running system has; containers share it with the machine that they run on, as they share locks."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
    except OSError:  # not Linux
        return socket.gethostname()


def _note(file: TextIO, command: str) -> None:
    since = datetime.now(UTC).isoformat(timespec="seconds")
    holder = {"host": socket.gethostname(), "pid": os.getpid(), "since": since, "command": command}
    file.truncate(0)
    file.write(json.dumps({**holder, "machine": _machine()}) + "\n")
    file.flush()


def _read(file: TextIO, *, wait: bool = False) -> dict[str, object]:
    """Who has the lock, or had it when its process died; empty where nothing says so.

    wait: for who has just taken it.
    """
    for _ in range(10 if wait else 1):
        file.seek(0)
        try:
            holder = json.loads(file.read())
        except ValueError:
            holder = None
        if isinstance(holder, dict):
            return holder
        if wait:
            time.sleep(0.05)
    return {}


def _words(holder: dict[str, object]) -> str:
    if not holder:
        return ""
    return ": process {pid} on {host}, since {since} ({command})".format_map(
        {name: holder.get(name, "?") for name in ("pid", "host", "since", "command")}
    )


def _beat(file: TextIO, stop: threading.Event) -> None:
    while not stop.wait(BEAT_S):
        with suppress(OSError):  # a file server that is away for a while
            os.utime(file.fileno())


def _is_renewed(path: Path) -> bool:
    """Whether the lock's time changes: its process is alive."""
    logger.info("%s may be left of a process that was killed: watching it for %.0f s", path, WATCH_S)
    before = _time(path)
    deadline = time.monotonic() + WATCH_S
    while time.monotonic() < deadline:
        time.sleep(BEAT_S / 5)
        if _time(path) != before:
            return True
    return False


def _time(path: Path) -> int:
    with path.open(encoding="utf-8") as file:  # opening asks the file server
        return os.fstat(file.fileno()).st_mtime_ns
