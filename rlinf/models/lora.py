"""Low-rank adapters (LoRA, arXiv:2106.09685) of policies: attach, name, switch off, count into the weights."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from openvla_oft.torch_utils.tensors import trainable_parameters as trainable_parameters
from rlinf.config import ConfigError, resolve_adapter
from rlinf.config.schema import ModelConfig
from rlinf.run_layout import ADAPTER_FILES
from transformers_openvla_oft import adapters


def attach_lora(
    model: nn.Module, *, target_modules: Sequence[str], rank: int, alpha: int | None, path: Path | None, seed: int
) -> PeftModel:
    """Wrap ``model`` with a trainable adapter: the one in folder ``path``, else a fresh one; see ``attach_adapter``.

    Raises:
        ConfigError: the stored adapter has another rank than the configuration asks for.
        CheckpointError: it cannot be read, or does not fit the model.
    """
    if path is None:
        config = adapters.fresh_config(target_modules=target_modules, rank=rank, alpha=alpha or rank)
    else:
        config = stored_config(path, rank=rank, alpha=alpha)
    return adapters.attach_adapter(model, config, path=path, seed=seed)


def stored_config(path: Path, *, rank: int | None = None, alpha: int | None = None) -> LoraConfig:
    """What an adapter in a folder is. rank, alpha: what the configuration asks for; None: whatever it has.

    Raises:
        ConfigError: it is of another rank or alpha.
        CheckpointError: it is no plain LoRA, or cannot be read.
    """
    config = adapters.read_config(path)
    asked = (("rank", "lora_rank", rank, config.r), ("alpha", "lora_alpha", alpha, config.lora_alpha))
    for name, key, wanted, stored in asked:
        if wanted not in (None, stored):
            raise ConfigError(
                f"the adapter in {path} has {name} {stored}, but actor.model.{key}={wanted}; give "
                f"actor.model.{key}={stored} or another adapter"
            )
    return config


def find_merged(model: ModelConfig) -> list[Path]:
    """The folders of adapters that are merged into the base checkpoint.

    Raises:
        ConfigError: one is not there.
        CheckpointError: one is no plain LoRA.
    """
    key = "actor.model.previous_lora_paths"
    folders = [resolve_adapter(path, key=key, files=ADAPTER_FILES) for path in model.previous_lora_paths]
    for folder in folders:
        stored_config(folder)
    return folders


def find_experts(model: ModelConfig, own: Path | None) -> list[Path]:
    """The folders of adapters of earlier tasks, which take the place of the policy's own in evaluations.

    own: its folder; None: a fresh one.

    Raises:
        ConfigError: one is not there, or of another rank or alpha.
        CheckpointError: one is no plain LoRA.
    """
    if not model.task_lora_paths:
        return []  # and the policy's own weights may be no adapter
    alpha = stored_config(own).lora_alpha if own else model.lora_alpha or model.lora_rank
    key = "actor.model.task_lora_paths"
    folders = [resolve_adapter(path, key=key, files=ADAPTER_FILES) for path in model.task_lora_paths]
    for folder in folders:
        stored_config(folder, rank=model.lora_rank, alpha=alpha)
    return folders


@contextmanager
def adapter_off(module: nn.Module) -> Iterator[None]:
    """The base model, for a while: every adapter's scale is 0.

    PEFT's own ``disable_adapter`` also switches off ``requires_grad``; under FSDP2, a parameter that is first gathered
    meanwhile would never get a gradient again.
    """
    layers = [layer for layer in module.modules() if isinstance(layer, LoraLayer)]
    scales = [dict(layer.scaling) for layer in layers]
    try:
        for layer in layers:
            layer.scaling.update(dict.fromkeys(layer.scaling, 0.0))
        yield
    finally:
        for layer, scale in zip(layers, scales, strict=True):
            layer.scaling.update(scale)


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
