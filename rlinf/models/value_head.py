"""The critic's head of a policy: attach, load, save, name."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from transformers_openvla_oft import CheckpointError, OpenVLAForActionPrediction, ValueHead
from transformers_openvla_oft.loading import check_finite, check_fit, shapes

VALUE_HEAD_FILE = "value_head.safetensors"
_MARK = ".value_head."


def attach_value_head(model: OpenVLAForActionPrediction, *, path: Path | None, seed: int) -> ValueHead:
    """Give ``model`` a trainable value head, float32: the one beside the adapter in ``path``, else the base
    checkpoint's own, else a fresh one, which depends on ``seed`` alone.

    Raises:
        CheckpointError: the stored head cannot be read, does not fit the model, or holds NaN or infinity.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = ValueHead(model.config.llama.hidden_size).float()
    own = model.value_head
    if own is not None and own.head_l3.out_features == 1:
        head.load_state_dict(own.state_dict())
    if path is not None and (path / VALUE_HEAD_FILE).is_file():
        what = f"the value head in {path / VALUE_HEAD_FILE}"
        try:
            stored = load_file(path / VALUE_HEAD_FILE)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{what} is truncated or corrupt ({error}); copy it again") from error
        check_fit(what, stored=shapes(stored), expected=shapes(head.state_dict()))
        check_finite(what, stored)
        head.load_state_dict(stored)
    model.value_head = head
    return head


def in_value_head(name: str) -> bool:
    """Whether a parameter of a policy belongs to its value head."""
    return _MARK in f".{name}"


def save_value_head(folder: Path, tensors: Mapping[str, NDArray[np.float32]]) -> None:
    """Write the value head's tensors among ``tensors`` under their published names; nothing where there are none."""
    own = {f".{name}": value for name, value in tensors.items() if in_value_head(name)}
    head = {name.split(_MARK)[1]: torch.from_numpy(value) for name, value in own.items()}
    if head:
        save_file(head, folder / VALUE_HEAD_FILE)
