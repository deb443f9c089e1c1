"""All weights of a policy as a file, for policies that are trained without an adapter."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from rlinf.run_layout import WHOLE_FILES
from transformers_openvla_oft import CheckpointError

WEIGHTS_FILE = WHOLE_FILES[0]


def write_whole(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors by name into an existing folder."""
    with (folder / WEIGHTS_FILE).open("wb") as file:  # given a path, torch does not say that a disk is full
        torch.save(dict(tensors), file)


def read_whole(folder: Path) -> dict[str, Tensor]:
    """Tensors by name, on the CPU.

    Raises:
        CheckpointError: the file is missing or cannot be read.
    """
    file = folder / WEIGHTS_FILE
    try:
        stored: dict[str, Tensor] = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # bytes that are no pickle lead to nearly any: KeyError, IndexError, struct.error, ...
        why = f"{type(error).__name__}: {error}"
        raise CheckpointError(f"{file} is missing, truncated or corrupt ({why}); copy it again") from error
    return stored
