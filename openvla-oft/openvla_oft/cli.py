"""What the package's command lines share: options made from the fields of dataclasses, logging, and exit codes."""

import argparse
import logging
import math
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import MISSING, Field, dataclass, fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import torch

from libero_runtime.commands import naming, system_message
from libero_runtime.cpus import num_cpus
from libero_runtime.folder_lock import LOCK_FILE, only_one

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 128 + signal.SIGINT
"""As shells give it to a command that Ctrl-C ended."""

Given = Mapping[str, Any]
"""Values of the options that stand in a command line, by their names without dashes in front."""
T = TypeVar("T")


@dataclass(frozen=True)
class Option:
    """Annotation of a dataclass's field that is an option of a command: ``name: Annotated[type, Option(...)]``."""

    help: str | None = None
    name: str | None = None
    """Where it is not the field's, dashes for underscores."""
    choices: Sequence[str] | None = None
    bare: str | None = None
    """Value of an option that is given without any."""
    has_negation: bool = False
    """A switch that has ``--no-<name>``, too."""
    may_change: bool = False
    """Whether interrupted work may be continued with another value."""
    above: float | None = None
    """A number has to be larger than this, where there is one."""
    least: float | None = None
    """The smallest number that is taken."""


def options_of(kind: type) -> dict[str, tuple[Option, "Field[Any]"]]:
    """The options that a dataclass declares, by their names without dashes in front."""
    hints = get_type_hints(kind, include_extras=True)
    found = {}
    for field in fields(kind):
        for option in getattr(hints[field.name], "__metadata__", ()):
            found[option.name or field.name.replace("_", "-")] = option, field
    return found


def add_options(parser: argparse.ArgumentParser, kind: type, title: str | None = None) -> None:
    """Every option of a dataclass, in a group of its own where that has a title."""
    group = parser if title is None else parser.add_argument_group(title)
    hints = get_type_hints(kind)
    for name, (option, field) in options_of(kind).items():
        settings: dict[str, Any] = {"help": option.help, "default": argparse.SUPPRESS}
        value_type = _value_type(hints[field.name])
        if value_type is bool:
            settings["action"] = argparse.BooleanOptionalAction if option.has_negation else "store_true"
        else:
            is_required = field.default is MISSING and field.default_factory is MISSING
            settings |= {"type": value_type, "choices": option.choices, "required": is_required}
            settings |= {} if option.bare is None else {"nargs": "?", "const": option.bare}
        group.add_argument(f"--{name}", **settings)


def build(kind: type[T], given: Given) -> T:
    """A dataclass of the options that were given and of its defaults."""
    values = {field.name: given[name] for name, (_, field) in options_of(kind).items() if name in given}
    return kind(**values)


def check_ranges(options: Any) -> None:
    """Raise ``ValueError`` for a number of a dataclass that its options do not allow."""
    for name, (option, field) in options_of(type(options)).items():
        value = getattr(options, field.name)
        if value is not None and option.above is not None and value <= option.above:
            raise ValueError(f"--{name} {value} must be larger than {option.above:g}")
        if value is not None and option.least is not None and value < option.least:
            raise ValueError(f"--{name} {value} must be at least {option.least:g}")


def _value_type(hint: Any) -> Callable[[str], Any]:
    if get_origin(hint) is tuple:
        return lambda text: tuple(text.split(","))
    if isinstance(hint, UnionType):
        (hint,) = (part for part in get_args(hint) if part is not NoneType)
    value_type: Callable[[str], Any] = hint
    return value_type


def use_our_cpus() -> None:
    """Let torch use no more threads than there are CPUs for this process; it does not know of control groups."""
    torch.set_num_threads(min(torch.get_num_threads(), num_cpus()))


@contextmanager
def alone(folder: Path, *, output: Path, doing: str, name: str = LOCK_FILE) -> Iterator[None]:
    """While one command makes ``output`` in a folder; see ``only_one``.

    Raises:
        ValueError: another process does, or the folder cannot be made.
    """
    lock = only_one(folder, doing=doing, advice="Wait for it, or give another --output", name=name)
    with ExitStack() as stack:
        try:
            stack.enter_context(lock)
        except OSError as error:
            raise ValueError(f"--output {output} cannot be made ({error}); give another folder") from error
        yield


def run_command(
    parser: argparse.ArgumentParser,
    run: Callable[[Given, Sequence[str]], None],
    arguments: Sequence[str] | None,
    *,
    interrupted: Callable[[Path], str],
) -> int:
    """Parse and run with what was given and the whole command line, of which --output is a part.

    A user's error becomes one message on stderr and exit code 2, Ctrl-C what ``interrupted`` says of --output.
    """
    command = list(sys.argv[1:] if arguments is None else arguments)
    given = {name.replace("_", "-"): value for name, value in vars(parser.parse_args(command)).items()}
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s", datefmt="%H:%M:%S")
    output: Path = given["output"]
    try:
        for name, value in given.items():  # Python reads "nan" and "inf" as numbers
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"--{name} {value} must be a finite number")
        with naming(output):
            run(given, command)
    except Exception as error:
        message = str(error) if isinstance(error, ValueError) else system_message(error)
        if message is None:
            raise
        sys.stderr.write(f"error: {message}\n")
        return EXIT_USER_ERROR
    except KeyboardInterrupt:
        if os.environ.get("RANK", "0") == "0":
            sys.stderr.write(f"interrupted: {interrupted(output)}\n")
        return EXIT_INTERRUPTED
    return 0
