"""Append-only JSON-lines files that survive crashes and concurrent writers."""

import dataclasses
import errno
import fcntl
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from libero_runtime.commands import naming
from rlinf.reporting import ReportingError

logger = logging.getLogger(__name__)
Record = TypeVar("Record")
JSON_TYPES: dict[Any, Any] = {tuple: list, float: (int, float)}  # of fields that JSON has another type for


def append_line(path: Path, entry: Mapping[str, Any]) -> None:
    """Add one object as one line: written in one call at the file's end, on disk when this returns.

    A lock keeps concurrent writers apart. A torn last line, left by a process that died while writing, is cut off
    first: otherwise the new line would be glued to it and both would be lost.
    """
    line = (json.dumps(entry, allow_nan=False, ensure_ascii=False) + "\n").encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        with naming(path):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            _cut_torn_line(descriptor, path)
            if os.write(descriptor, line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def append_record(path: Path, record: Any) -> None:
    """Add a dataclass. Task ids, which its dictionaries have for keys, are strings in JSON."""
    append_line(path, dataclasses.asdict(record))


def read_records(path: Path, kind: type[Record]) -> list[Record]:
    """What ``append_record`` wrote, in that order; nothing where there is no file. Lacking fields get their defaults.

    Raises:
        ReportingError: a line has other fields, or values that cannot be; names it.
    """
    found, hints = [], get_type_hints(kind)
    for number, entry in read_lines(path) if path.is_file() else []:
        try:
            found.append(kind(**{name: _typed(name, value, hints.get(name, object)) for name, value in entry.items()}))
        except (TypeError, ValueError) as error:
            raise ReportingError(f"{path} line {number}: {error}") from error
    return found


def _typed(name: str, value: Any, hint: Any) -> Any:
    """A value of JSON as a field's type has it; raises where it is none of that type."""
    kinds = [get_origin(kind) or kind for kind in (get_args(hint) if isinstance(hint, UnionType) else (hint,))]
    if not any(isinstance(value, JSON_TYPES.get(kind, kind)) for kind in kinds):
        raise ReportingError(f"{name} must be of type {getattr(hint, '__name__', hint)}, given {value!r}")
    if kinds == [dict] and get_args(hint)[0] is int:
        return {int(task): one for task, one in value.items()}
    return tuple(value) if isinstance(value, list) else value


def read_lines(path: Path) -> list[tuple[int, dict[str, Any]]]:
    """All objects with their line numbers (from 1).

    A last line that is cut short is skipped with a warning; anything else that is no JSON object raises
    ``ReportingError``, as it means that the file was damaged or edited.
    """
    lines = path.read_bytes().split(b"\n")
    torn = lines.pop()  # b"" when the file ends with a newline, as it should
    entries = [(number, _parse(path, number, line)) for number, line in enumerate(lines, start=1)]
    if torn:
        number = len(lines) + 1
        try:
            entries.append((number, _parse(path, number, torn)))
        except ReportingError:
            logger.warning("%s line %d is cut short (a process died while writing it); ignored", path, number)
    return entries


def _parse(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        entry = json.loads(line)
    except ValueError as error:
        raise ReportingError(
            f"{path} line {number} is no JSON ({error}): {line[:80]!r}. The file was damaged; restore it or remove "
            "that line"
        ) from error
    if not isinstance(entry, dict):
        raise ReportingError(f"{path} line {number} must be a JSON object, given {type(entry).__name__}: {line[:80]!r}")
    return entry


def _cut_torn_line(descriptor: int, path: Path) -> None:
    size = os.fstat(descriptor).st_size
    if size == 0 or os.pread(descriptor, 1, size - 1) == b"\n":
        return
    torn = os.pread(descriptor, size, 0).rsplit(b"\n", 1)[-1]
    try:
        complete = isinstance(json.loads(torn), dict)
    except ValueError:
        complete = False
    if complete:  # only the newline is missing
        os.write(descriptor, b"\n")
        return
    logger.warning("%s ends in a line cut short (%d bytes, a process died while writing it); removed", path, len(torn))
    os.ftruncate(descriptor, size - len(torn))
