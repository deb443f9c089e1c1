"""Adapters of earlier tasks as part of the base model, and the scale of the one on top, as the configuration asks.

The arithmetic is in ``transformers_openvla_oft.merging``.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from rlinf.config import ConfigError
from rlinf.models.lora import adapter_errors
from transformers_openvla_oft import merging
from transformers_openvla_oft.adapters import AdapterError


def merge_adapters(model: nn.Module, paths: Sequence[Path], *, coeff: float) -> None:
    """Add ``coeff`` times the sum of the adapters' changes to the weights of ``model``, which has no adapter yet.

    Raises:
        ConfigError: an adapter is incomplete, does not fit the model, or is of a kind that cannot be merged.
    """
    with adapter_errors():
        merging.merge_adapters(model, paths, coeff=coeff)


def scale_adapter(module: nn.Module, scale: float) -> None:
    """Let the adapter count ``scale`` times: 1 as trained, 0 not at all. The model's weights are not touched.

    Raises:
        ConfigError: there is no adapter to scale, or the scale is not in [0, 1].
    """
    try:
        merging.scale_adapter(module, scale)
    except AdapterError as error:
        raise ConfigError(f"actor.model.lora_scale={scale}: {error}") from error


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
