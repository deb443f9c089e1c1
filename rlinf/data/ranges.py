"""Indices in words: ``0-2,7`` for 0, 1, 2 and 7."""

from collections.abc import Iterable


def index_ranges(indices: Iterable[int]) -> str:
    """Indices as ranges, in order, each once."""
    ranges: list[list[int]] = []
    for index in sorted(set(indices)):
        if ranges and index == ranges[-1][1] + 1:
            ranges[-1][1] = index
        else:
            ranges.append([index, index])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)


def read_ranges(text: str) -> tuple[int, ...]:
    """The indices of ranges, in order, each once.

    Raises:
        ValueError: the text holds something else than numbers and ranges with commas between them.
    """
    found: set[int] = set()
    for part in text.split(","):
        first, dash, last = (word.strip() for word in part.partition("-"))
        numbers = (first, last) if dash else (first, first)
        if not all(number.isascii() and number.isdigit() for number in numbers) or int(numbers[0]) > int(numbers[1]):
            raise ValueError(f'{text!r} must be indices such as "0-24" or "0,3,10-12"')
        found.update(range(int(numbers[0]), int(numbers[1]) + 1))
    return tuple(sorted(found))
