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

from .heads import ValueHead

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
VALUE_HEAD_PREFIX = "value_head."
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
        raise broken(file, f"no JSON object but {shortened(found)}", expected=expected)
    return found


def broken(file: Path, why: str, *, expected: str) -> CheckpointError:
    """The error for a file that is not what a checkpoint has there."""
    return CheckpointError(
        f"the checkpoint {file.parent} is incomplete or corrupt: {file.name}: {why}; expected {expected}. Download or "
        "copy it again."
    )


@contextmanager
def unreported() -> Iterator[None]:
    """Without transformers' table of weights that do not fit, which calls a value head unexpected; see `report`."""
    logger = logging.getLogger("transformers.modeling_utils")
    logger.addFilter(_is_no_table)
    try:
        yield
    finally:
        logger.removeFilter(_is_no_table)


def _is_no_table(record: logging.LogRecord) -> bool:
    return "LOAD REPORT" not in record.getMessage()


def check_loaded(path: str | os.PathLike[str], tensors: Mapping[str, Tensor]) -> None:
    """Refuse weights that would make every output NaN.

    Raises:
        CheckpointError: names the tensors that hold NaN or infinity.
    """
    if bad := non_finite(tensors):
        precisions = ", ".join(sorted({str(tensors[name].dtype).removeprefix("torch.") for name in bad}))
        raise CheckpointError(
            f"the weights in {path}, read as {precisions}, hold NaN or infinity: {listed(bad)}. "
            "The training that wrote them diverged, or they are too large for that precision: take another checkpoint, "
            "or another dtype."
        )


def check_stored(folder: Path, shapes: Mapping[str, tuple[int, ...]]) -> set[str]:
    """Compare what a folder holds with the model's own `shapes` by name; gives the names of a value head beside them.

    Only the files' headers are read. Without this, transformers fills what is missing with random numbers, which takes
    minutes at the size of a 7B, and then warns.

    Raises:
        CheckpointError: lists what is missing, unexpected or of another shape, or is stored as whole numbers.
    """
    stored = stored_shapes(folder)
    if whole := [name for name, dtype in stored_dtypes(folder).items() if not dtype.startswith(("F", "BF"))]:
        raise CheckpointError(
            f"the weights in {folder} are no floating-point numbers: {listed(whole)}. Quantised checkpoints are not "
            "read: take the original one."
        )
    head = {name for name in stored if name.startswith(VALUE_HEAD_PREFIX)} - shapes.keys()
    report(
        folder,
        missing=shapes.keys() - stored.keys(),
        unexpected=stored.keys() - shapes.keys() - head,
        mismatched={
            name: (stored[name], shape)
            for name, shape in shapes.items()
            if name in stored and tuple(stored[name]) != tuple(shape)
        },
    )
    return head


def report(
    path: str | os.PathLike[str],
    *,
    missing: Collection[str],
    unexpected: Collection[str],
    mismatched: Mapping[str, tuple[Sequence[int], Sequence[int]]],
) -> None:
    """Say what does not fit.

    Raises:
        CheckpointError: unless all three are empty.
    """
    if found := differences(missing=missing, unexpected=unexpected, mismatched=mismatched):
        raise CheckpointError(
            f"the weights in {path} are not this model's: {found}. Nothing is made up in their place: check "
            "that config.json and the weights belong together."
        )


def differences(
    *,
    missing: Collection[str],
    unexpected: Collection[str],
    mismatched: Mapping[str, tuple[Sequence[int], Sequence[int]]],
) -> str:
    """What does not fit, for messages; empty where all does. mismatched: names to the shapes stored and expected."""
    shapes = [f"{name} is {tuple(have)}, expected {tuple(want)}" for name, (have, want) in mismatched.items()]
    problems = {"missing": missing, "unexpected": unexpected, "of another shape": shapes}
    return "; ".join(f"{len(names)} {what}: {listed(names)}" for what, names in problems.items() if names)


def non_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    """Names of the tensors that hold NaN or infinity.

    Reads every number once and copies none: half a second for each thousand million of them on one core.
    """
    return [name for name, tensor in tensors.items() if not _is_finite(tensor)]


def _is_finite(tensor: Tensor) -> bool:
    if not tensor.is_floating_point() or tensor.is_meta or not tensor.numel():
        return True
    low, high = torch.aminmax(tensor.detach())  # of which NaN is both where there is one
    return bool(torch.isfinite(low) & torch.isfinite(high))


def stored_value_head(path: Path, names: Collection[str], *, hidden_size: int) -> ValueHead:
    """The value head that a checkpoint holds under `names`; reinforcement learning saves one with its policies.

    Raises:
        CheckpointError: it is no head of this package, or not for features of that size.
    """
    stored = {name.removeprefix(VALUE_HEAD_PREFIX): tensor for name, tensor in stored_tensors(path, names).items()}
    wanted = ("head_l1.weight", "head_l3.weight")
    if any(name not in stored for name in wanted):
        raise CheckpointError(f"the value head in {path} lacks {wanted}; it holds {sorted(stored)}")
    head = ValueHead(hidden_size, num_outputs=len(stored["head_l3.weight"]) if stored["head_l3.weight"].ndim else 1)
    try:
        head.load_state_dict(stored)
    except RuntimeError as error:
        why = " ".join(str(error).split())
        raise CheckpointError(f"the value head in {path} does not fit: {why}") from error
    return head


def stored_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of all stored tensors, from one file or from shards with an index."""
    return {name: tuple(part.get_shape()) for name, part in _stored(folder)}


def stored_dtypes(folder: Path) -> dict[str, str]:
    """Names and types of all stored tensors, in the words of safetensors: `F32`, `BF16`, `I8`, ..."""
    return {name: part.get_dtype() for name, part in _stored(folder)}


def _stored(folder: Path) -> Iterator[tuple[str, Any]]:
    """Names of all stored tensors and safetensors' slices of them, of which only the headers are read."""
    for file in weight_files(folder):
        with safe_open(folder / file, framework="pt") as opened:
            yield from ((name, opened.get_slice(name)) for name in opened.keys())  # noqa: SIM118


def stored_tensors(folder: Path, names: Collection[str]) -> dict[str, Tensor]:
    """Tensors of a checkpoint folder by name."""
    tensors: dict[str, Tensor] = {}
    for file in weight_files(folder):
        with safe_open(folder / file, framework="pt") as opened:
            own = set(opened.keys())
            tensors.update({name: opened.get_tensor(name) for name in names if name in own})
    return tensors


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
    if not (isinstance(files, dict) and files and all(isinstance(file, str) for file in files.values())):
        raise broken(index, f"weight_map is {shortened(files)}", expected=expected)
    return sorted(set(files.values()))


def listed(names: Collection[str]) -> str:
    """The first of the names in alphabetical order, and how many more there are."""
    names = sorted(names)
    return ", ".join(names[:MAX_LISTED]) + (f" and {len(names) - MAX_LISTED} more" if len(names) > MAX_LISTED else "")


def shortened(value: object) -> str:
    """What was given, for messages."""
    text = repr(value)
    return f"{text[:40]} ..." if len(text) > 40 else text


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
