"""The critic's head of a policy: attach, load, save, name."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from rlinf.config import ConfigError
from transformers_openvla_oft import OpenVLAForActionPrediction, ValueHead
from transformers_openvla_oft.loading import listed, non_finite

VALUE_HEAD_FILE = "value_head.safetensors"
_MARK = ".value_head."


def attach_value_head(model: OpenVLAForActionPrediction, *, path: Path | None, seed: int) -> ValueHead:
    """Give ``model`` a trainable value head, float32: the one beside the adapter in ``path``, else the base
    checkpoint's own, else a fresh one, which depends on ``seed`` alone.

    Raises:
        ConfigError: the stored head cannot be read, does not fit the model, or holds NaN or infinity.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = ValueHead(model.config.llama.hidden_size).float()
    own = model.value_head
    if own is not None and own.head_l3.out_features == 1:
        head.load_state_dict(own.state_dict())
    file = path / VALUE_HEAD_FILE if path is not None else None
    if file is not None and file.is_file():
        head.load_state_dict(_read(file, expected=head.state_dict()))
    model.value_head = head
    return head


def _read(file: Path, *, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a stored head, with names and shapes as ``expected``.

    Raises:
        ConfigError: they cannot be used.
    """
    try:
        stored = load_file(file)
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"the value head in {file} is truncated or corrupt ({error}); copy it again") from error
    for name in sorted(stored.keys() | expected.keys()):
        have, want = (tuple(tensors[name].shape) if name in tensors else None for tensors in (stored, expected))
        if have != want:
            raise ConfigError(f"the value head in {file} does not fit: {name} is {have}, the model needs {want}")
    if bad := non_finite(stored):
        raise ConfigError(
            f"the value head in {file} is not usable: {len(bad)} of its tensors hold NaN or infinity: {listed(bad)}. "
            "The training that wrote it diverged; take an earlier one."
        )
    return stored


def in_value_head(name: str) -> bool:
    """Whether a parameter of a policy belongs to its value head."""
    return _MARK in name


def save_value_head(folder: Path, tensors: Mapping[str, NDArray[np.float32]]) -> None:
    """Write the value head's tensors among ``tensors`` under their published names; nothing where there are none."""
    head = {name.split(_MARK)[1]: torch.from_numpy(value) for name, value in tensors.items() if in_value_head(name)}
    if head:
        save_file(head, folder / VALUE_HEAD_FILE)
