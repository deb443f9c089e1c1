"""Low-rank adapters (LoRA, arXiv:2106.09685) with PEFT: attach, continue, save in PEFT's own format, merge."""

import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from transformers_openvla_oft.modeling import OpenVLAForActionPrediction, lora_target_modules

ADAPTER_FILE = "adapter_model.safetensors"
ADAPTER_FILES = ("adapter_config.json", ADAPTER_FILE)


@dataclass(frozen=True)
class LoraSettings:
    """``path`` continues a stored adapter, which then gives rank, alpha and targets."""

    rank: int
    alpha: int
    dropout: float
    path: Path | None

    def __post_init__(self) -> None:
        if self.rank < 1 or self.alpha < 1 or not 0 <= self.dropout < 1:
            raise ValueError(f"LoRA needs a rank and an alpha of at least 1 and a dropout in [0, 1), given {self}")


def attach(model: OpenVLAForActionPrediction, settings: LoraSettings, *, base: str, seed: int) -> PeftModel:
    """Freeze ``model`` and wrap it with a trainable float32 adapter; a fresh one depends on ``seed`` alone.

    base: name of the base checkpoint, for the adapter's configuration.
    """
    with warnings.catch_warnings():  # peft asks transformers for an attribute under its old name
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
        if settings.path is None:
            config = LoraConfig(
                r=settings.rank,
                lora_alpha=settings.alpha,
                lora_dropout=settings.dropout,
                target_modules=lora_target_modules(model),
                init_lora_weights="gaussian",
                base_model_name_or_path=base,
            )
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                wrapped = get_peft_model(model, config)
        else:
            config = _stored_config(settings)
            wrapped = get_peft_model(model, config)
            _load(wrapped, settings.path)
    for name, parameter in wrapped.named_parameters():
        parameter.requires_grad_("lora_" in name)
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return wrapped


def is_adapter_weight(name: str) -> bool:
    return "lora_" in name


def save_adapter(wrapped: PeftModel, tensors: dict[str, Tensor], folder: Path) -> None:
    """Write whole adapter tensors, by their names in ``wrapped``, so that plain PEFT loads them."""
    wrapped.peft_config["default"].save_pretrained(str(folder))
    adapter = {name.replace(".default.", "."): tensor.float().contiguous() for name, tensor in tensors.items()}
    save_file(adapter, folder / ADAPTER_FILE, metadata={"format": "pt"})


def loaded(model: OpenVLAForActionPrediction, folder: Path) -> PeftModel:
    """``model`` with the adapter of ``folder``, to use and not to train."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)
        return PeftModel.from_pretrained(model, str(folder))


def merged(model: OpenVLAForActionPrediction, folder: Path) -> OpenVLAForActionPrediction:
    """The adapter of ``folder`` added to ``model``, which is changed."""
    whole: OpenVLAForActionPrediction = loaded(model, folder).merge_and_unload()
    return whole


def _stored_config(settings: LoraSettings) -> LoraConfig:
    assert settings.path is not None
    if not (settings.path / "adapter_config.json").is_file():
        raise ValueError(f"--lora-path {settings.path}: no adapter_config.json there; expected a PEFT adapter folder")
    config: LoraConfig = LoraConfig.from_pretrained(str(settings.path))
    if config.r != settings.rank:
        raise ValueError(
            f"the adapter in {settings.path} has rank {config.r}, but --lora-rank {settings.rank} is asked for; "
            f"give --lora-rank {config.r} or another adapter"
        )
    config.inference_mode = False
    return config


def _load(wrapped: nn.Module, path: Path) -> None:
    """Load every tensor of the adapter; published adapters hold base weights beside it, which are left out."""
    try:
        tensors = load_file(path / ADAPTER_FILE)
    except (OSError, SafetensorError) as error:
        raise ValueError(f"{path / ADAPTER_FILE} cannot be read as safetensors ({error})") from error
    stored = {name: tensor for name, tensor in tensors.items() if is_adapter_weight(name)}
    expected = get_peft_model_state_dict(wrapped, save_embedding_layers=False)
    wrong = [
        name
        for name in sorted(stored.keys() | expected.keys())
        if name not in stored or name not in expected or stored[name].shape != expected[name].shape
    ]
    if wrong:
        raise ValueError(
            f"the adapter in {path} does not fit the model: {len(wrong)} of {len(expected)} tensors are missing, "
            f"unknown or of another shape, the first is {wrong[0]}"
        )
    set_peft_model_state_dict(wrapped, stored)
