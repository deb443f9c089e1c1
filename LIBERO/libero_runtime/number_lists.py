"""Lists of numbers as command lines take them."""

from __future__ import annotations


class NumberError(ValueError):
    """A number or a list of numbers on a command line that does not fit."""


def parse_numbers(text: str) -> tuple[int, ...]:
    """Numbers and ranges: "0-3,7" is 0, 1, 2, 3, 7."""
    numbers: list[int] = []
    for part in text.split(","):
        first, _, last = part.strip().partition("-")
        if not first.isdigit() or (last and not last.isdigit()):
            raise NumberError(f"expected numbers and ranges such as 0-3,7, given {text!r}")
        numbers += range(int(first), int(last or first) + 1)
    if not numbers or len(set(numbers)) != len(numbers):
        raise NumberError(f"{text!r} names no number, or one of them twice")
    return tuple(numbers)
