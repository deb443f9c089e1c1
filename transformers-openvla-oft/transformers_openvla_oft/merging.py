"""Adapters of earlier tasks as part of the base model, and the scale of the one on top. Needs `peft`.

A LoRA adapter (arXiv:2106.09685) changes a weight by `alpha / r * B A`. With `o` outputs, `i` inputs, rank `r` and a
kernel of `k x l` pixels, B is `(o, r)` and A `(r, i)`; of a convolution `(o, r, 1, 1)` and `(r, i, k, l)`.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from safetensors import safe_open
from torch import Tensor, nn

from .adapters import (
    WEIGHTS_FILE,
    AdapterError,
    adapter_state,
    adapter_weights,
    check_finite,
    check_fit,
    read_config,
    reading_adapter,
    wrap,
)

_PREFIX, _A, _B = "base_model.model.", ".lora_A.weight", ".lora_B.weight"
_UNUSUAL = ("rank_pattern", "alpha_pattern", "fan_in_fan_out")


@dataclass(frozen=True)
class _Stored:
    """An adapter that fits the model; its tensors stay in the file until they are asked for."""

    factor: float
    modules: frozenset[str]
    file: Any

    def change(self, module: str) -> Tensor:
        """What the adapter adds to the module's weight, float32."""
        a, b = (self.file.get_tensor(_PREFIX + module + part).float() for part in (_A, _B))
        return self.factor * low_rank_product(a, b)


def low_rank_product(a: Tensor, b: Tensor) -> Tensor:
    """`B A` in the shape of the weight that it is added to: (o, i), of a convolution (o, i, k, l)."""
    if a.dim() == 2:
        return b @ a
    return torch.einsum("or,rikl->oikl", b.flatten(1), a)


@torch.no_grad()
def merge_adapters(model: nn.Module, paths: Sequence[Path], *, coeff: float) -> None:
    """Add `coeff` times the sum of the adapters' changes to the weights of `model`, which has no adapter yet.

    The sum is made in float32 and rounded to the weight's own precision once. `model` is whole, not sharded. Every
    adapter is checked before the first weight changes.

    Raises:
        AdapterError: an adapter is incomplete, does not fit the model, holds NaN, or is of a kind that is more than
            `B A`.
    """
    if any(isinstance(module, LoraLayer) for module in model.modules()):
        raise AdapterError(
            "the model that adapters are to be merged into has an adapter already: merge first, then attach a fresh one"
        )
    with ExitStack() as stack:
        stored = [_open(stack, model, path) for path in paths]
        for name in sorted(frozenset[str]().union(*(adapter.modules for adapter in stored))):
            weight = model.get_parameter(name + ".weight")
            change = torch.zeros(weight.shape, dtype=torch.float32)
            for adapter in stored:
                if name in adapter.modules:
                    change += adapter.change(name)
            weight.copy_(weight.float() + coeff * change.to(weight.device))


def scale_adapter(model: nn.Module, scale: float) -> None:
    """Let the adapter count `scale` times: 1 as trained, 0 not at all. The model's weights are not touched.

    Raises:
        AdapterError: there is no adapter to scale, or the scale is not in [0, 1].
    """
    if not 0 <= scale <= 1:
        raise AdapterError(f"an adapter's scale must be between 0 (off) and 1 (as trained), given {scale}")
    layers = [module for module in model.modules() if isinstance(module, LoraLayer)]
    if not layers and scale != 1:
        raise AdapterError(f"the model has no adapter that could be scaled by {scale}")
    for layer in layers:
        for name in layer.scaling:
            layer.set_scale(name, scale)


def _open(stack: ExitStack, model: nn.Module, path: Path) -> _Stored:
    config = read_config(path)
    factor = _factor(config, path)
    expected = _expected_shapes(model, config, path)
    with reading_adapter(path):
        file = stack.enter_context(safe_open(path / WEIGHTS_FILE, framework="pt"))
    names = adapter_weights(path, file.keys())
    check_fit(path, stored={name: file.get_slice(name).get_shape() for name in names}, expected=expected)
    check_finite(path, {name: file.get_tensor(name) for name in names})
    modules = frozenset(name.removeprefix(_PREFIX).removesuffix(_A) for name in expected if name.endswith(_A))
    return _Stored(factor, modules, file)


def _factor(config: LoraConfig, path: Path) -> float:
    for name in _UNUSUAL:
        if getattr(config, name):
            raise AdapterError(f"the adapter in {path} cannot be merged: its {name}={getattr(config, name)}")
    rank = config.r**0.5 if config.use_rslora else config.r
    return float(config.lora_alpha / rank)


def _expected_shapes(model: nn.Module, config: LoraConfig, path: Path) -> Mapping[str, tuple[int, ...]]:
    """Shapes of the tensors that an adapter of this configuration has on `model`, by the names that it stores."""
    # PEFT itself says what it would make, on a copy without memory.
    tensors = [*model.parameters(), *model.buffers()]
    skeleton = copy.deepcopy(model, {id(tensor): _without_memory(tensor) for tensor in tensors})
    plain = copy.copy(config)
    plain.init_lora_weights = False  # some ways to start an adapter compute with the weights
    plain.base_model_name_or_path = None  # that it is another path than the model's says nothing
    with torch.device("meta"):
        wrapped = wrap(skeleton, plain, path=path)
    return {name: tuple(tensor.shape) for name, tensor in adapter_state(wrapped).items()}


def _without_memory(tensor: Tensor) -> Tensor:
    empty = torch.empty_like(tensor, device="meta")
    return nn.Parameter(empty, requires_grad=tensor.requires_grad) if isinstance(tensor, nn.Parameter) else empty
