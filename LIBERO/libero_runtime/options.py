"""Command lines made from dataclasses: a field says its option's name, type, range, default and help."""

import argparse
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, fields
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from libero_runtime.commands import OptionError, parse_numbers, run_command

Given = Mapping[str, Any]
"""Values of the options that stand in a command line, by their names without dashes in front."""
T = TypeVar("T")


@dataclass(frozen=True)
class Option:
    """Annotation of a dataclass's field that is an option of a command: ``name: Annotated[type, Option(...)]``."""

    help: str | None = None
    name: str | None = None
    """Where it is not the field's, dashes for underscores."""
    alias: str | None = None
    """Another name for it."""
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
    most: float | None = None
    """The largest one."""
    below: float | None = None
    """A number has to be smaller than this, where there is one."""


def options_of(kind: type) -> dict[str, tuple[Option, Field[Any]]]:
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
        settings: dict[str, Any] = {"help": _help(option, field), "default": argparse.SUPPRESS}
        value_type = _value_type(hints[field.name])
        if value_type is bool:
            settings["action"] = argparse.BooleanOptionalAction if option.has_negation else "store_true"
        else:
            is_required = field.default is MISSING and field.default_factory is MISSING
            settings |= {"type": value_type, "choices": option.choices, "required": is_required}
            settings |= {} if option.bare is None else {"nargs": "?", "const": option.bare}
        group.add_argument(f"--{name}", *([f"--{option.alias}"] if option.alias else []), **settings)


def given_in(parsed: argparse.Namespace) -> Given:
    """What stands in a command line."""
    return {name.replace("_", "-"): value for name, value in vars(parsed).items()}


def build(kind: type[T], given: Given) -> T:
    """A dataclass of the options that were given and of its defaults.

    Raises:
        ValueError: a number is not one that its option allows.
    """
    options = {name: option for name, option in options_of(kind).items() if name in given}
    for name, (option, _) in options.items():
        value = given[name]
        if isinstance(value, float) and not math.isfinite(value):  # Python reads "nan" and "inf" as numbers
            raise ValueError(f"--{name} {value} must be a finite number")
        if option.above is not None and value <= option.above:
            raise ValueError(f"--{name} {value} must be larger than {option.above:g}")
        if option.least is not None and value < option.least:
            raise ValueError(f"--{name} {value} must be at least {option.least:g}")
        if option.most is not None and value > option.most:
            raise ValueError(f"--{name} {value} must be at most {option.most:g}")
        if option.below is not None and value >= option.below:
            raise ValueError(f"--{name} {value} must be smaller than {option.below:g}")
    return kind(**{field.name: given[name] for name, (_, field) in options.items()})


def run_with_options(
    kind: type[T], run: Callable[[T], int], arguments: Sequence[str] | None, *, description: str | None
) -> int:
    """A command of which these are all options; returns its exit status, see ``run_command``."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, kind)
    given = given_in(parser.parse_args(arguments))
    return run_command(lambda: run(build(kind, given)))


def _help(option: Option, field: Field[Any]) -> str | None:
    """With the default, where it is a number or a word and the help does not tell it."""
    plain = isinstance(field.default, int | float | str) and not isinstance(field.default, bool)
    if not plain or "default" in (option.help or ""):
        return option.help
    return f"{option.help or ''} (default: {field.default})".strip()


def _value_type(hint: Any) -> Callable[[str], Any]:
    if get_origin(hint) is tuple:
        return _numbers if get_args(hint)[0] is int else lambda text: tuple(map(str.strip, text.split(",")))
    if isinstance(hint, UnionType):
        (hint,) = (part for part in get_args(hint) if part is not NoneType)
    value_type: Callable[[str], Any] = hint
    return value_type


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return parse_numbers(text)
    except OptionError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
