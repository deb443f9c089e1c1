"""Low-rank adapters (LoRA, arXiv:2106.09685) of policies: attach, name, switch off."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from peft import LoraConfig, PeftModel
from peft.tuners.lora import LoraLayer
from torch import nn

from rlinf.config import ConfigError, resolve_adapter
from rlinf.config.schema import ModelConfig
from rlinf.run_layout import ADAPTER_FILES
from transformers_openvla_oft import adapters


def attach_lora(
    model: nn.Module, *, target_modules: Sequence[str], rank: int, alpha: int | None, path: Path | None, seed: int
) -> PeftModel:
    """Wrap ``model`` with a trainable adapter: the one in folder ``path``, else a fresh one; see ``attach_adapter``.

    Raises:
        ConfigError: the stored adapter has another rank than the configuration asks for, or does not fit the model.
    """
    with adapter_errors():
        if path is None:
            config = adapters.fresh_config(target_modules=target_modules, rank=rank, alpha=alpha or rank)
        else:
            config = stored_config(path, rank=rank, alpha=alpha)
        return adapters.attach_adapter(model, config, path=path, seed=seed)


def stored_config(path: Path, *, rank: int | None = None, alpha: int | None = None) -> LoraConfig:
    """What an adapter in a folder is. rank, alpha: what the configuration asks for; None: whatever it has.

    Raises:
        ConfigError: it is of another rank or alpha, no plain LoRA, or cannot be read.
    """
    with adapter_errors():
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
        ConfigError: one is not there, or no plain LoRA.
    """
    key = "actor.model.previous_lora_paths"
    folders = [resolve_adapter(path, key=key, files=ADAPTER_FILES) for path in model.previous_lora_paths]
    for folder in folders:
        stored_config(folder)
    return folders


@contextmanager
def adapter_errors() -> Iterator[None]:
    """An adapter that cannot be used was named in the configuration."""
    try:
        yield
    except adapters.AdapterError as error:
        raise ConfigError(str(error)) from error


def save_adapter(wrapped: PeftModel, folder: Path, tensors: Mapping[str, NDArray[np.float32]]) -> None:
    """Write whole adapter tensors, by their names in ``wrapped``, in PEFT's own format."""
    adapters.save_adapter(wrapped, folder, {name: torch.from_numpy(value) for name, value in tensors.items()})


def trainable_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters that are trained, by name; names are equal with and without sharding."""
    return {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}


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
