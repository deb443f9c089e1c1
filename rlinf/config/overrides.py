"""Hydra overrides made of values, by Hydra's own grammar: what reads them has exactly the value that was given."""

import re
import shlex
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException

Value = str | PurePath | bool | int | float | None


def override(key: str, value: Value | Sequence[Value]) -> str:
    """``key=value``; texts are quoted where Hydra would read something else."""
    if value is None or isinstance(value, str | PurePath | bool | int | float):
        return f"{key}={_spelled(value)}"
    return f"{key}=[{','.join(map(_spelled, value))}]"


def literal(text: str) -> str:
    """A text that OmegaConf takes as it is, whatever follows a ``$`` in it."""
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", text)


def literals(value: Any) -> Any:
    """Settings whose texts, also inside lists and mappings, OmegaConf takes as they are."""
    if isinstance(value, dict):
        return {key: literals(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [literals(one) for one in value]
    return literal(value) if isinstance(value, str) else value


def quoting_advice(overrides: Sequence[str]) -> str:
    """What to write in a shell for the first of these whose value Hydra does not read as one value; empty if none."""
    for text in overrides:
        key, _, value = text.partition("=")
        try:
            is_one = not OverridesParser.create().parse_override(text).is_sweep_override()
        except HydraException:
            is_one = False
        if not is_one:
            return f" If that value is a text, such as a path, write {shlex.quote(override(key, value))}"
    return ""


def _spelled(value: Value) -> str:
    if value is None:
        return "null"
    if not isinstance(value, str | PurePath):
        return str(value).lower()
    text = literal(str(value))
    return text if _is_read_as(text) else QuotedString(text, Quote.single).with_quotes()


def _is_read_as(text: str) -> bool:
    """Whether Hydra reads a text without quotes as this text, also inside a list."""
    try:
        read = OverridesParser.create().parse_override(f"key=[{text}]").value()
    except HydraException:
        return False
    return bool(read == [text])
