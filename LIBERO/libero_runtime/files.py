"""Files and folders that are whole or not there at all, and one process at a time in a folder.

A lock is the kernel's (flock): it ends with its process, however that ends, and NFS and most cluster file systems keep
it between machines. The file that is locked says who has it; where a file system has no such locks, that decides.
"""

import errno
import fcntl
import json
import os
import shlex
import shutil
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TextIO

from libero_runtime.commands import naming

LOCK_FILE = ".lock"
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


def cache_folder() -> Path:
    """``$XDG_CACHE_HOME/libero-runtime`` or ``~/.cache/libero-runtime``."""
    base = os.environ.get("XDG_CACHE_HOME", "").strip()
    return (Path(base) if base else Path.home() / ".cache") / "libero-runtime"


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary name to write a file under, which then gets its own: who reads beside this finds the old one or the
    new one, and a full disk leaves the old one. Folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.partial")
    try:
        with naming(path):
            yield partial
            partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_whole(path: Path, content: bytes | str) -> None:
    """Write a file, whole or not at all."""
    with whole_file(path) as partial:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """The same of a folder that is not there yet, while nobody else makes it; what a killed process left is removed."""
    partial = path.with_name(f".{path.name}.unfinished")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
        partial.rename(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def one_at_a_time(lock: Path) -> Iterator[None]:
    """Wait until no other process of this machine is here. Where there are no such locks, all go in together."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("a") as file:
        with suppress(OSError):  # a file system without locks: the same work is done twice, and written in one step
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


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
    file = _locked(path, f"another process is {doing} {folder}", advice)
    try:
        since = datetime.now(UTC).isoformat(timespec="seconds")
        command = shlex.join(sys.orig_argv) if command is None else command
        holder = {"host": socket.gethostname(), "pid": os.getpid(), "since": since, "command": command}
        file.truncate(0)
        file.write(json.dumps(holder) + "\n")
        file.flush()
        yield
    finally:
        if _is_at(path, file):  # the folder may have been renamed, and its name be another's by now
            path.unlink()
        file.close()
        with suppress(OSError):  # somebody wrote into it, which is what it was made for
            for parent in made:
                parent.rmdir()


def _locked(path: Path, refusal: str, advice: str) -> TextIO:
    """The file at ``path``, open and locked."""
    while True:
        file = _opened(path)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            has_locks = error.errno not in _NO_LOCKS
            if has_locks and not isinstance(error, BlockingIOError):
                file.close()
                raise
            holder = _read(file, wait=has_locks)
            if has_locks or _may_be_alive(holder):
                file.close()
                left = "" if has_locks else f" If it has ended, remove {path}."
                raise FolderInUseError(f"{refusal}{_words(holder)}.{left} {advice}") from error
        if _is_at(path, file):
            return file
        file.close()  # who had it has just ended, and removed it


def _opened(path: Path) -> TextIO:
    """The file at ``path`` in a folder that is made.

    Whoever had the lock removes the folders that it made. That can come between our two calls, or within mkdir, so
    they are repeated; a few times only, as some folders cannot be made at all (/proc/x raises FileNotFoundError).
    """
    for _ in range(100):
        with suppress(FileExistsError, FileNotFoundError):
            path.parent.mkdir(parents=True, exist_ok=True)
            return path.open("a+", encoding="utf-8")
        time.sleep(0.001)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("a+", encoding="utf-8")


def _is_at(path: Path, file: TextIO) -> bool:
    """Whether the open file still has its name."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _read(file: TextIO, *, wait: bool) -> dict[str, object]:
    """Who has the lock, or had it when its process died; empty where nothing says so.

    wait: for who has just taken it.
    """
    for _ in range(10 if wait else 1):
        file.seek(0)
        with suppress(ValueError):
            holder: dict[str, object] = json.loads(file.read())
            return holder
        if wait:
            time.sleep(0.05)
    return {}


def _may_be_alive(holder: dict[str, object]) -> bool:
    """Nobody knows of a process of another machine."""
    return bool(holder) and (holder["host"] != socket.gethostname() or Path(f"/proc/{holder['pid']}").exists())


def _words(holder: dict[str, object]) -> str:
    if not holder:
        return ""
    return ": process {pid} on {host}, since {since} ({command})".format_map(
        {name: holder.get(name, "?") for name in ("pid", "host", "since", "command")}
    )
