"""Starting and watching processes in tests."""

import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path


def python(code: str) -> list[str]:
    """The command that runs ``code``."""
    return [sys.executable, "-c", code]


def wait_until(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
    """Whether ``condition`` came to hold in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return condition()


def is_alive(pid: int) -> bool:
    """Whether that process runs; one that has ended and was not waited for does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def heed_signals() -> None:
    """Give a new process the default answers to SIGINT and SIGHUP (as ``preexec_fn``).

    A shell starts background jobs with SIGINT ignored and ``nohup`` ignores SIGHUP, which everything below them
    inherits, test runs too.
    """
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
