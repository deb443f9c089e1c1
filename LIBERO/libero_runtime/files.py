"""Files that are there whole or not at all, and where those are that can be made again."""

import fcntl
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from libero_runtime.commands import naming


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
