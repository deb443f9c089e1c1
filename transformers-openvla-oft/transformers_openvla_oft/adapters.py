"""Low-rank adapters (LoRA, arXiv:2106.09685) in PEFT's own format: make, read, save. Needs `peft`."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"


class AdapterError(ValueError):
    """A stored adapter that is broken, of another kind, or another model's."""


def fresh_config(
    *, target_modules: Sequence[str], rank: int, alpha: int, dropout: float = 0.0, base: str | None = None
) -> LoraConfig:
    """Configuration of an adapter that changes nothing yet (A Gaussian, B zero). base: names the base checkpoint."""
    return LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=list(target_modules),
        init_lora_weights="gaussian",
        base_model_name_or_path=base,
    )


def read_config(path: Path) -> LoraConfig:
    """`adapter_config.json` of a LoRA adapter.

    Raises:
        AdapterError: it is missing, broken, or of another kind of adapter.
    """
    try:
        stored = PeftConfig.from_pretrained(str(path))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AdapterError(f"{path / CONFIG_FILE} is no adapter's configuration: {error}") from error
    if not isinstance(stored, LoraConfig):
        raise AdapterError(f"the adapter in {path} is of type {stored.peft_type}; expected LORA")
    return stored


def attach_adapter(model: nn.Module, config: LoraConfig, *, path: Path | None, seed: int) -> PeftModel:
    """Wrap `model` with a float32 adapter, and freeze all else: the one in folder `path`, else a fresh one.

    The fresh adapter depends on `seed` alone. config: from `read_config(path)` or `fresh_config`.

    Raises:
        AdapterError: the stored adapter is broken or does not fit the model.
    """
    config.inference_mode = False
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        # peft asks transformers for an attribute under its old name
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
        torch.manual_seed(seed)
        try:
            wrapped = get_peft_model(model, config)
        except ValueError as error:  # none of its targets is there
            raise AdapterError(f"the adapter in {path} is another model's: {error}") from error
    assert isinstance(wrapped, PeftModel)
    if path is not None:
        _load(wrapped, path)
    for name, parameter in wrapped.named_parameters():
        parameter.requires_grad_(is_adapter_weight(name))
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return wrapped


def is_adapter_weight(name: str) -> bool:
    """Whether a parameter belongs to the adapter; published adapter files hold base weights beside it."""
    return "lora_" in name


@contextmanager
def reading_adapter(path: Path) -> Iterator[None]:
    """Turn errors of the file format into one that names the file.

    Raises:
        AdapterError: the weights are truncated or corrupt.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise AdapterError(f"{path / WEIGHTS_FILE} is truncated or corrupt ({error}); copy it again") from error


def _load(wrapped: PeftModel, path: Path) -> None:
    """Load every tensor of the adapter and nothing else."""
    with reading_adapter(path):
        tensors = load_file(path / WEIGHTS_FILE)
    stored = {name: tensor for name, tensor in tensors.items() if is_adapter_weight(name)}
    expected = get_peft_model_state_dict(wrapped, save_embedding_layers=False)
    wrong = [
        name
        for name in sorted(stored.keys() | expected.keys())
        if name not in stored or name not in expected or stored[name].shape != expected[name].shape
    ]
    if wrong:
        have, want = (tuple(group[wrong[0]].shape) if wrong[0] in group else None for group in (stored, expected))
        raise AdapterError(
            f"the adapter in {path} does not fit the model: {len(wrong)} of {len(expected)} tensors are missing, "
            f"unknown or of another shape, the first is {wrong[0]} (stored: {have}, expected: {want})"
        )
    set_peft_model_state_dict(wrapped, stored)


def save_adapter(wrapped: PeftModel, folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write whole adapter tensors, by their names in `wrapped`, so that plain PEFT loads them."""
    wrapped.peft_config["default"].save_pretrained(str(folder))
    adapter = {name.replace(".default.", "."): tensor.float().contiguous() for name, tensor in tensors.items()}
    save_file(adapter, folder / WEIGHTS_FILE, metadata={"format": "pt"})
