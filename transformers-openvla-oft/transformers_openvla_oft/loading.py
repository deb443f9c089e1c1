"""Reading a checkpoint's weights completely or not at all."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
MAX_LISTED = 20


class CheckpointError(ValueError):
    """A checkpoint is incomplete, corrupt, or another model's."""


@contextmanager
def reading(path: str | os.PathLike[str]) -> Iterator[None]:
    """Errors of the libraries that read files, as one kind of error that names the checkpoint."""
    try:
        yield
    except (OSError, SafetensorError, json.JSONDecodeError, UnicodeDecodeError) as error:
        why = str(error).rstrip(".")
        if not Path(path).exists():
            on_hub = len(Path(path).parts) == 2 and not Path(path).is_absolute()
            hub = f", and the Hugging Face Hub does not give a repository of that name ({why})" if on_hub else ""
            raise CheckpointError(
                f"there is no checkpoint folder {path}{hub}. Give the folder of a downloaded checkpoint."
            ) from error
        raise CheckpointError(
            f"the checkpoint {path} is incomplete or corrupt: {why}{_unreadable(Path(path))}. Download or copy it "
            "again."
        ) from error


def read_object(file: Path, *, expected: str) -> dict[str, Any]:
    """A JSON object. expected: what is in it, for messages.

    Raises:
        CheckpointError: the file is missing, cannot be read, is no JSON, or holds something else.
    """
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise broken(file, "there is no such file", expected=expected) from error
    except OSError as error:
        raise broken(file, f"it cannot be read ({error.strerror})", expected=expected) from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise broken(file, f"no JSON ({error})", expected=expected) from error
    if not isinstance(found, dict):
        raise broken(file, f"no JSON object but {found!r:.40}", expected=expected)
    return found


def broken(file: Path, why: str, *, expected: str) -> CheckpointError:
    """The error for a file that is not what a checkpoint has there."""
    return CheckpointError(
        f"the checkpoint {file.parent} is incomplete or corrupt: {file.name}: {why}; expected {expected}. Download or "
        "copy it again."
    )


@contextmanager
def unreported() -> Iterator[None]:
    """Without transformers' table of weights that do not fit, which calls a value head unexpected; `report` says it."""

    def is_no_table(record: logging.LogRecord) -> bool:
        return "LOAD REPORT" not in record.getMessage()

    logger = logging.getLogger("transformers.modeling_utils")
    logger.addFilter(is_no_table)
    try:
        yield
    finally:
        logger.removeFilter(is_no_table)


def check_fit(what: str, *, stored: Mapping[str, Sequence[int]], expected: Mapping[str, Sequence[int]]) -> None:
    """Compare the shapes of stored tensors by name with those that a model needs. what: names the file, for messages.

    Raises:
        CheckpointError: lists what is missing, unexpected or of another shape.
    """
    report(
        what,
        missing=expected.keys() - stored.keys(),
        unexpected=stored.keys() - expected.keys(),
        mismatched=[
            (name, stored[name], expected[name])
            for name in stored.keys() & expected.keys()
            if tuple(stored[name]) != tuple(expected[name])
        ],
    )


def report(
    what: str,
    *,
    missing: Collection[str],
    unexpected: Collection[str],
    mismatched: Collection[tuple[str, Sequence[int], Sequence[int]]],
) -> None:
    """Say what does not fit. mismatched: names with the shapes stored and expected.

    Raises:
        CheckpointError: unless all three are empty.
    """
    shapes = [f"{name} is {tuple(have)}, expected {tuple(want)}" for name, have, want in mismatched]
    problems = {"missing": missing, "unexpected": unexpected, "of another shape": shapes}
    if found := "; ".join(f"{len(names)} {kind}: {listed(names)}" for kind, names in problems.items() if names):
        raise CheckpointError(
            f"{what} does not fit the model: {found}. Nothing is made up in its place: check that configuration and "
            "weights belong together, and to this model."
        )


def check_finite(what: str, tensors: Mapping[str, Tensor]) -> None:
    """Refuse weights that would make every output NaN. Reads every number once and copies none: half a second for each
    thousand million of them on one core.

    Raises:
        CheckpointError: names the tensors that hold NaN or infinity.
    """
    if bad := [name for name, tensor in tensors.items() if not _is_finite(tensor)]:
        precisions = ", ".join(sorted({str(tensors[name].dtype).removeprefix("torch.") for name in bad}))
        raise CheckpointError(
            f"{what}, read as {precisions}, holds NaN or infinity: {listed(bad)}. The training that wrote it diverged, "
            "or it is too large for that precision: take an earlier one, or another dtype."
        )


def _is_finite(tensor: Tensor) -> bool:
    if not tensor.is_floating_point() or tensor.is_meta or not tensor.numel():
        return True
    low, high = torch.aminmax(tensor.detach())  # of which NaN is both where there is one
    return bool(torch.isfinite(low) & torch.isfinite(high))


def shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Shapes by name."""
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def weight_files(folder: Path) -> list[str]:
    """Names of the files that all tensors of a checkpoint come from: `model.safetensors`, else the index's shards.

    That is transformers' order, so model, value head and hash have one source. Shards that no index names count for
    nothing, nor does an index without its shards, which saving whole over shards leaves behind. Both complete are
    refused: transformers leaves the old whole file beside new shards and would read it; others do the reverse.

    Raises:
        CheckpointError: there are two sources, or the index is broken.
        FileNotFoundError: there is none.
    """
    index = folder / INDEX_FILE
    shards = _shards(index) if index.is_file() else []
    if (folder / WEIGHTS_FILE).is_file():
        if rivals := [file for file in shards if file != WEIGHTS_FILE and (folder / file).is_file()]:
            raise CheckpointError(
                f"the checkpoint {folder} holds two sets of weights, and nothing says which is meant: {WEIGHTS_FILE}, "
                f"and {listed(rivals)} with {INDEX_FILE}. Move one of the two elsewhere."
            )
        return [WEIGHTS_FILE]
    if not shards:
        raise FileNotFoundError(f"neither {WEIGHTS_FILE} nor {INDEX_FILE} is there")
    return shards


def _shards(index: Path) -> list[str]:
    expected = "the file of every weight by its name, under weight_map"
    files = read_object(index, expected=expected).get("weight_map")
    if not (isinstance(files, dict) and files):
        raise broken(index, f"weight_map is {files!r:.40}", expected=expected)
    return sorted(set(files.values()))


def listed(names: Collection[str]) -> str:
    """The first of the names in alphabetical order, and how many more there are."""
    names = sorted(names)
    return ", ".join(names[:MAX_LISTED]) + (f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else "")


def _unreadable(folder: Path) -> str:
    """Which weight files cannot be opened, for the message; the libraries do not say."""
    bad = []
    for file in sorted(folder.glob("*.safetensors")):
        try:
            with safe_open(file, framework="pt"):
                pass
        except (OSError, SafetensorError):
            bad.append(f"{file.name} ({file.stat().st_size} bytes)")
    return f" (cannot be read: {', '.join(bad)})" if bad else ""
