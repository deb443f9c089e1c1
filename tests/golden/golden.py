"""Comparing with what is committed, and to the bit with another commit on the same machine."""

import hashlib
import json
import math
import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

COMMITTED = Path(__file__).parent / "values.json"
REWRITE = "REWRITE_GOLDEN"
RECORD, COMPARE = "GOLDEN_RECORD", "GOLDEN_COMPARE"
DIGITS = 6

Value = float | int | str | list["Value"]


def is_rewritten() -> bool:
    """Whether what is committed is to be written anew instead of compared with."""
    return bool(os.environ.get(REWRITE))


def hash_of(array: NDArray) -> str:
    """Of type, shape and bytes."""
    array = np.ascontiguousarray(array)
    return hashlib.sha256(f"{array.dtype} {array.shape} ".encode() + array.tobytes()).hexdigest()


def check_exact(name: str, arrays: dict[str, NDArray]) -> None:
    """Record hashes in the file GOLDEN_RECORD names, or demand those in the file GOLDEN_COMPARE names."""
    hashes = {key: hash_of(array) for key, array in arrays.items()}
    if path := os.environ.get(RECORD):
        _add(Path(path), {name: hashes})
    if path := os.environ.get(COMPARE):
        known = json.loads(Path(path).read_text())[name]
        differing = sorted(key for key in known | hashes if known.get(key) != hashes.get(key))
        assert not differing, (
            f"{name}: not the same bits as in {path}: {len(differing)} of {len(known)}, {differing[:9]}"
        )


def check_values(name: str, values: dict[str, Value], *, rel: float = 1e-4, absolute: float = 1e-6) -> None:
    """Demand the committed values: numbers within a tolerance that another machine's arithmetic keeps to."""
    values = {key: _rounded(value) for key, value in values.items()}
    if is_rewritten():
        _add(COMMITTED, {name: values})
    expected = json.loads(COMMITTED.read_text())[name]
    assert values.keys() == expected.keys()
    wrong = [
        f"{key} is {value}, committed {expected[key]}"
        for key, value in values.items()
        if not same(value, expected[key], rel, absolute)
    ]
    assert not wrong, f"{name}: {'; '.join(wrong)}"


def same(found: Value, wanted: Value, rel: float, absolute: float) -> bool:
    """Whether two values agree, number by number."""
    if isinstance(found, list) and isinstance(wanted, list):
        return len(found) == len(wanted) and all(same(*pair, rel, absolute) for pair in zip(found, wanted, strict=True))
    if isinstance(found, float | int) and isinstance(wanted, float | int):
        return math.isclose(found, wanted, rel_tol=rel, abs_tol=absolute)
    return found == wanted


def sketch(array: NDArray) -> list[float]:
    """An array in a few numbers: mean, root mean square, and its product with fixed random numbers."""
    flat = np.asarray(array, np.float64).ravel()
    mixed = np.random.default_rng(flat.size).normal(size=flat.size)
    return [float(flat.mean()), float(np.sqrt(np.square(flat).mean())), float(flat @ mixed / flat.size**0.5)]


def _rounded(value: Value) -> Value:
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value


def _add(path: Path, entries: dict[str, object]) -> None:
    known = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(dict(sorted({**known, **entries}.items())), indent=1) + "\n")
