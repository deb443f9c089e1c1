"""Adapters of earlier tasks as part of the base model, and the scale of the one on top.

A LoRA adapter (arXiv:2106.09685) changes a weight by ``alpha / r * B A``. With ``o`` outputs, ``i`` inputs, rank ``r``
and a kernel of ``k x l`` pixels, B is ``(o, r)`` and A ``(r, i)``; of a convolution ``(o, r, 1, 1)`` and
``(r, i, k, l)``.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from safetensors import safe_open
from torch import Tensor, nn

from rlinf.config import ConfigError
from rlinf.models.lora import adapter_errors
from transformers_openvla_oft.adapters import WEIGHTS_FILE, read_config, reading_adapter

_PREFIX, _A, _B = "base_model.model.", ".lora_A.weight", ".lora_B.weight"
_UNUSUAL = ("use_dora", "rank_pattern", "alpha_pattern", "fan_in_fan_out")


def low_rank_product(a: Tensor, b: Tensor) -> Tensor:
    """``B A`` in the shape of the weight that it is added to."""
    if a.dim() == 2:
        return b @ a
    return torch.einsum("or,rikl->oikl", b.flatten(1), a)


@torch.no_grad()
def merge_adapters(model: nn.Module, paths: Sequence[Path], *, coeff: float) -> None:
    """Add ``coeff`` times the sum of the adapters' changes to the weights of ``model``, which has no adapter yet.

    The sum is made in float32 and rounded to the weight's own precision once. ``model`` is whole, not sharded.

    Raises:
        ConfigError: an adapter does not fit the model, or is of a kind that is more than ``B A``.
    """
    modules = dict(model.named_modules())
    with ExitStack() as stack:
        files = [_open(stack, path) for path in paths]
        factors = [_factor(path) for path in paths]
        keys = [{key for key in file.keys() if key.endswith(_A)} for file in files]  # noqa: SIM118 - not a mapping
        for key in sorted(set().union(*keys)):
            name = key.removeprefix(_PREFIX).removesuffix(_A)
            holders = [index for index, own in enumerate(keys) if key in own]
            weight = getattr(modules.get(name), "weight", None)
            if not isinstance(weight, Tensor):
                raise ConfigError(f"the adapter in {paths[holders[0]]} changes {name}, which the model does not have")
            change = torch.zeros(weight.shape, dtype=torch.float32)
            for index in holders:
                a, b = (files[index].get_tensor(part).float() for part in (key, key.replace(_A, _B)))
                product = low_rank_product(a, b)
                if product.shape != weight.shape:
                    raise ConfigError(
                        f"the adapter in {paths[index]} does not fit the model: {name} has shape "
                        f"{tuple(weight.shape)}, the adapter's change {tuple(product.shape)}"
                    )
                change += factors[index] * product
            weight.copy_(weight.float() + coeff * change.to(weight.device))


def _open(stack: ExitStack, path: Path) -> Any:
    with adapter_errors(), reading_adapter(path):
        return stack.enter_context(safe_open(path / WEIGHTS_FILE, framework="pt"))


def _factor(path: Path) -> float:
    with adapter_errors():
        config = read_config(path)
    unusual = [name for name in _UNUSUAL if getattr(config, name)]
    if unusual:
        raise ConfigError(f"the adapter in {path} cannot be merged: its {unusual[0]}={getattr(config, unusual[0])}")
    rank = config.r**0.5 if config.use_rslora else config.r
    return float(config.lora_alpha / rank)


def scale_adapter(module: nn.Module, scale: float) -> None:
    """Let the adapter count ``scale`` times: 1 as trained, 0 not at all. The model's weights are not touched.

    Raises:
        ConfigError: there is no adapter to scale.
    """
    layers = [layer for layer in module.modules() if isinstance(layer, LoraLayer)]
    if not layers and scale != 1:
        raise ConfigError(f"actor.model.lora_scale={scale}: this policy has no adapter to scale")
    for layer in layers:
        for name in layer.scaling:
            layer.set_scale(name, scale)


class MergedAdapter:
    """An adapter that is counted into the weights beneath it, so that a layer is one product instead of three.

    For acting, in float32; parameters and names stay. Whoever changes the adapter or its scale calls ``refresh``, which
    starts from a copy of the weights without it: nothing adds up. Without an adapter it does nothing.
    """

    def __init__(self, module: nn.Module) -> None:
        self._layers: list[Any] = [layer for layer in module.modules() if isinstance(layer, LoraLayer)]
        self._weights: list[Tensor] = [layer.get_base_layer().weight.detach().clone() for layer in self._layers]
        self.refresh()

    @torch.no_grad()
    def refresh(self) -> None:
        """Take over the adapter as it is now."""
        for layer, weight in zip(self._layers, self._weights, strict=True):
            layer.get_base_layer().weight.copy_(weight)
            layer.merged_adapters.clear()
            layer.merge()
