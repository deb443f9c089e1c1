"""Low-rank adapters (LoRA, arXiv:2106.09685): attach, load, name."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from rlinf.config import ConfigError

CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"


def attach_lora(
    model: nn.Module, *, target_modules: Sequence[str], rank: int, alpha: int | None, path: Path | None, seed: int
) -> PeftModel:
    """Wrap ``model`` with a trainable adapter: the one in folder ``path``, else a fresh one (A Gaussian, B zero).

    Everything but the adapter is frozen; the adapter is float32. The fresh adapter depends on ``seed`` alone.

    Raises:
        ConfigError: the stored adapter has another rank than the configuration asks for, or does not fit the model.
    """
    with warnings.catch_warnings():  # peft asks transformers for an attribute under its old name
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
        wrapped = _wrap(model, target_modules, rank, alpha, path, seed)
    for name, parameter in wrapped.named_parameters():
        parameter.requires_grad_("lora_" in name)
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return wrapped


def _wrap(
    model: nn.Module, target_modules: Sequence[str], rank: int, alpha: int | None, path: Path | None, seed: int
) -> PeftModel:
    if path is None:
        config = LoraConfig(
            r=rank,
            lora_alpha=alpha or rank,
            target_modules=list(target_modules),
            lora_dropout=0.0,
            init_lora_weights="gaussian",
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            wrapped = get_peft_model(model, config)
        assert isinstance(wrapped, PeftModel)
    else:
        stored = read_adapter_config(path)
        if stored.r != rank:
            raise ConfigError(
                f"the adapter in {path} has rank {stored.r}, but actor.model.lora_rank={rank}; "
                f"give actor.model.lora_rank={stored.r} or another adapter"
            )
        stored.inference_mode = False
        try:
            wrapped = get_peft_model(model, stored)
        except ValueError as error:  # none of its targets is there
            raise ConfigError(f"the adapter in {path} is another model's: {error}") from error
        assert isinstance(wrapped, PeftModel)
        _load_adapter(wrapped, path)
    return wrapped


def read_adapter_config(path: Path) -> LoraConfig:
    """``adapter_config.json`` of a LoRA adapter.

    Raises:
        ConfigError: it is missing, broken, or of another kind of adapter.
    """
    try:
        stored = PeftConfig.from_pretrained(str(path))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path / CONFIG_FILE} is no adapter's configuration: {error}") from error
    if not isinstance(stored, LoraConfig):
        raise ConfigError(f"the adapter in {path} is of type {stored.peft_type}; expected LORA")
    return stored


@contextmanager
def reading_adapter(path: Path) -> Iterator[None]:
    """Turn errors of the file format into one that names the file.

    Raises:
        ConfigError: the weights are truncated or corrupt.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise ConfigError(f"{path / WEIGHTS_FILE} is truncated or corrupt ({error}); copy it again") from error


def _load_adapter(wrapped: PeftModel, path: Path) -> None:
    """Load every tensor of the adapter; published adapters hold base weights beside it, which are left out."""
    with reading_adapter(path):
        tensors = load_file(path / WEIGHTS_FILE)
    stored = {key: value for key, value in tensors.items() if "lora_" in key}
    expected = get_peft_model_state_dict(wrapped, save_embedding_layers=False)
    wrong = [
        key
        for key in sorted(stored.keys() | expected.keys())
        if key not in stored or key not in expected or stored[key].shape != expected[key].shape
    ]
    if wrong:
        have, want = (tuple(group[wrong[0]].shape) if wrong[0] in group else None for group in (stored, expected))
        raise ConfigError(
            f"the adapter in {path} does not fit the model: {len(wrong)} of {len(expected)} tensors are missing, "
            f"unknown or of another shape, the first is {wrong[0]} (stored: {have}, expected: {want})"
        )
    set_peft_model_state_dict(wrapped, stored)


def save_adapter(wrapped: PeftModel, folder: Path, tensors: Mapping[str, NDArray[np.float32]]) -> None:
    """Write whole adapter tensors, by their names in ``wrapped``, in PEFT's own format."""
    wrapped.peft_config["default"].save_pretrained(str(folder))
    adapter = {name.replace(".default.", "."): torch.from_numpy(value) for name, value in tensors.items()}
    save_file(adapter, folder / WEIGHTS_FILE)


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
