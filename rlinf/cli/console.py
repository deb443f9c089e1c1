"""One way for every command line to fail: a user's mistake is one message and exit code 2, a bug is a traceback and 1.

Usage, at the end of a command's module::

    if __name__ == "__main__":
        run_cli(main)
"""

import logging
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import NoReturn

logger = logging.getLogger(__name__)

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 128 + signal.SIGINT

OUR_PACKAGES = ("rlinf", "libero_runtime", "openvla_oft", "transformers_openvla_oft")
REPOSITORY = Path(__file__).resolve().parents[2]
TRACEBACK_VARIABLE = "RLINF_TRACEBACK"  # set it to see where a user error was raised
_ended_by: int | None = None  # the signal that this process leaves by


class UsageError(ValueError):
    """The command line itself is wrong: a missing, surplus or malformed argument."""


def run_cli(main: Callable[[Sequence[str]], int], argv: Sequence[str] | None = None) -> NoReturn:
    """Run ``main(argv)`` and leave the process with its exit code; ``argv`` defaults to the command line."""
    try:
        code = main(sys.argv[1:] if argv is None else argv)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of `... | head` has gone: nothing is left to say
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 128 + signal.SIGPIPE
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = EXIT_INTERRUPTED
    except SystemExit:
        if _ended_by is None:
            raise
        code = 128 + _ended_by  # Ray, if it was waiting for something, has made another of it
    except Exception as error:
        message = user_message(error)
        if message is None:
            raise
        print_error(message)
        if os.environ.get(TRACEBACK_VARIABLE):
            traceback.print_exception(error)
        code = EXIT_USER_ERROR
    sys.exit(code)


def configure_process() -> None:
    """Log lines with a time; SIGTERM and SIGHUP unwind like Ctrl-C, so that workers are ended, if they are not ignored,
    as ``nohup`` asks for."""
    line = "%(asctime)s %(levelname)s %(name)s: %(message)s"
    logging.basicConfig(level=logging.INFO, format=line, datefmt="%H:%M:%S")
    for noisy in ("httpx", "OpenGL", "matplotlib", "robosuite_logs"):
        logging.getLogger(noisy).setLevel(logging.WARNING)

    leaving = signal.SIGTERM, signal.SIGHUP

    def leave(number: int, _: FrameType | None) -> None:
        global _ended_by
        _ended_by = number
        for once in leaving:  # a second one, as a group and its parent may send, would interrupt the tidying up
            signal.signal(once, signal.SIG_IGN)
        raise SystemExit(128 + number)

    for number in leaving:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, leave)


def print_error(message: str) -> None:
    sys.stdout.flush()
    print(f"error: {message}", file=sys.stderr, flush=True)


def user_message(error: BaseException) -> str | None:
    """What to tell the user, or None when the error is a bug of ours and its traceback is the better message.

    A user error is a ``ValueError`` that our own code raised (here or in a Ray worker), a package that is not
    installed, or what the operating system refuses (``system_message``).
    """
    if isinstance(error, ModuleNotFoundError):
        return _missing_package_message(error)
    cause = getattr(error, "cause", None)  # how Ray carries a worker's exception
    if isinstance(cause, ValueError) and _is_ours(type(cause).__module__):
        return str(cause)
    if isinstance(error, ValueError) and (_is_ours(type(error).__module__) or _raised_by_us(error)):
        return str(error)
    from libero_runtime.commands import system_message  # not above: that package may be the one that is missing

    return system_message(error)


def _is_ours(module: str) -> bool:
    return module.split(".", 1)[0] in OUR_PACKAGES


def _raised_by_us(error: BaseException) -> bool:
    """Whether the innermost frame is our code; a ValueError from inside a library is not the user's mistake."""
    frames = traceback.extract_tb(error.__traceback__)
    if not frames:
        return False
    path = Path(frames[-1].filename).resolve()
    return path.is_relative_to(REPOSITORY) and "site-packages" not in path.parts


def _missing_package_message(error: ModuleNotFoundError) -> str | None:
    if error.name is None or error.name in sys.stdlib_module_names:
        return None
    if _is_ours(error.name) and "." in error.name:  # a module of ours that does not exist: a bug
        return None
    return (
        f"the Python package {error.name!r} is not installed for {sys.executable}. Install everything with "
        "`bash examples/quickstart.sh`, or by hand as the README's Installation section says, and run this again "
        "with that environment active."
    )
