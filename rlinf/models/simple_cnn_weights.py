"""The weights of a simple CNN: read completely, or refused with what is wrong with them."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from rlinf.config import ConfigError
from transformers_openvla_oft.loading import listed, non_finite

VALUE_HEAD = "value_head."


def read_weights(file: Path, *, fresh: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict with the names and shapes of `fresh`, which gives the value head where the file has none.

    A value head that `fresh` lacks is left out.

    Raises:
        ConfigError: the weights cannot be read, do not fit, or hold NaN or infinity.
    """
    stored = {name: value for name, value in _load(file).items() if name in fresh or not name.startswith(VALUE_HEAD)}
    stored = {**{name: value for name, value in fresh.items() if name.startswith(VALUE_HEAD)}, **stored}
    wrong = [
        name
        for name in sorted(stored.keys() | fresh.keys())
        if name not in stored or name not in fresh or stored[name].shape != fresh[name].shape
    ]
    if wrong:
        raise ConfigError(
            f"{file} does not fit the policy: {len(wrong)} tensors are missing, unknown or of another shape, the first "
            f"is {wrong[0]}"
        )
    if bad := non_finite(stored):
        raise ConfigError(
            f"{file} is not usable: {len(bad)} of its tensors hold NaN or infinity: {listed(bad)}. The training that "
            "wrote it diverged; take an earlier one."
        )
    return stored


def _load(file: Path) -> dict[str, Tensor]:
    try:
        stored = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # bytes that are no pickle lead to nearly any: KeyError, IndexError, struct.error, ...
        why = f"{type(error).__name__}: {error}"
        raise ConfigError(f"{file} is missing, truncated or corrupt ({why}); copy it again") from error
    if not (isinstance(stored, dict) and all(isinstance(x, str) and isinstance(y, Tensor) for x, y in stored.items())):
        raise ConfigError(f"{file} holds no state dict, tensors by their names, but {type(stored).__name__}")
    return stored
