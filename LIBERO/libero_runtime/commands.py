"""What command lines share: a user's mistake is one message, and processes beside each other use one core each."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

INSTALL_COMMANDS = (
    "pip install -e LIBERO",
    "pip install --no-deps robosuite==1.4.1 hf-libero==0.1.4 bddl==1.0.1 opencv-python-headless",
)
_LIBRARIES = ("OMP", "OPENBLAS", "MKL", "NUMBA", "LP")  # the last is Mesa's drawing in software


class OptionError(ValueError):
    """An option of a command line that does not fit; the message says what was expected and what was given."""


def run_command(command: Callable[[], int]) -> int:
    """Run a command and return its exit status: 2, with one message, for what its user can mend.

    That is every `ValueError` (the base of this package's errors) and a package that cannot be imported.
    """
    try:
        return command()
    except ImportError as error:
        if (error.name or "").startswith("libero_runtime"):
            raise
        installs = " and ".join(f"`{install}`" for install in INSTALL_COMMANDS)
        sys.stderr.write(f"error: a package is missing or does not work here ({error}). Install with {installs}\n")
    except ValueError as error:
        sys.stderr.write(f"error: {error}\n")
    return 2


def use_one_thread() -> None:
    """Let numerical libraries use one thread, here where they are not loaded yet and in child processes.

    With one process per core, threads inside them would only get into each other's way.
    """
    for library in _LIBRARIES:
        os.environ[f"{library}_NUM_THREADS"] = "1"
