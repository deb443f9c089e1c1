"""Files that are there whole or not at all, and where those are that can be made again."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def cache_folder() -> Path:
    """``$XDG_CACHE_HOME/libero-runtime`` or ``~/.cache/libero-runtime``."""
    base = os.environ.get("XDG_CACHE_HOME", "").strip()
    return (Path(base) if base else Path.home() / ".cache") / "libero-runtime"


def write_whole(path: Path, content: bytes) -> None:
    """Write a file in one step: who reads beside this finds the old one or the new one. Folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as part:
        part.write(content)
    file = Path(part.name)
    file.chmod(0o644)  # a temporary file is its owner's only
    file.replace(path)


@contextmanager
def one_at_a_time(lock: Path) -> Iterator[None]:
    """Wait until no other process of this machine is here. Where there are no such locks, all go in together."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("a") as file:
        with suppress(OSError):  # a file system without locks: the same work is done twice, and written in one step
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
