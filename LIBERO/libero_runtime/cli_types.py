"""Numbers and lists of numbers as command lines take them."""

from __future__ import annotations

import math
from argparse import ArgumentTypeError


class NumberError(ValueError):
    """A number or a list of numbers on a command line that does not fit."""


def parse_numbers(text: str) -> tuple[int, ...]:
    """Numbers and ranges: "0-3,7" is 0, 1, 2, 3, 7."""
    numbers: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()) or int(last or first) < int(first):
            raise NumberError(f"expected numbers and ranges such as 0-3,7, given {text!r}")
        numbers += range(int(first), int(last or first) + 1)
    if len(set(numbers)) != len(numbers):
        raise NumberError(f"{text!r} names a number twice")
    return tuple(numbers)


def at_least_one(text: str) -> int:
    """A whole number from 1 on: a type for `argparse`."""
    return _whole(text, least=1)


def whole(text: str) -> int:
    """A whole number from 0 on: a type for `argparse`."""
    return _whole(text, least=0)


def _whole(text: str, *, least: int) -> int:
    try:
        number = int(text)
    except ValueError:
        number = least - 1
    if number < least:
        raise ArgumentTypeError(f"expected a whole number of at least {least}, given {text}")
    return number


def not_negative(text: str) -> float:
    """A finite number from 0 on: a type for `argparse`."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and number >= 0):
        raise ArgumentTypeError(f"expected a number of at least 0, given {text}")
    return number
