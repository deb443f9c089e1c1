"""Low-rank adapters (LoRA, arXiv:2106.09685) in supervised training: start and continue."""

from dataclasses import dataclass
from pathlib import Path

from peft import LoraConfig, PeftModel

from transformers_openvla_oft import adapters
from transformers_openvla_oft.adapters import CONFIG_FILE, WEIGHTS_FILE
from transformers_openvla_oft.model.modeling import OpenVLAForActionPrediction, lora_target_modules

ADAPTER_FILES = (CONFIG_FILE, WEIGHTS_FILE)


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
    """Wrap ``model`` with a trainable adapter; see ``attach_adapter``. base: name of the base checkpoint."""
    if settings.path is not None:
        config = _stored_config(settings, settings.path)
    else:
        config = adapters.fresh_config(
            target_modules=lora_target_modules(model),
            rank=settings.rank,
            alpha=settings.alpha,
            dropout=settings.dropout,
            base=base,
        )
    return adapters.attach_adapter(model, config, path=settings.path, seed=seed)


def _stored_config(settings: LoraSettings, path: Path) -> LoraConfig:
    if not (path / CONFIG_FILE).is_file():
        raise ValueError(f"--lora-path {path}: no {CONFIG_FILE} there; expected a PEFT adapter folder")
    config = adapters.read_config(path)
    if config.r != settings.rank:
        raise ValueError(
            f"the adapter in {path} has rank {config.r}, but --lora-rank {settings.rank} is asked for; "
            f"give --lora-rank {config.r} or another adapter"
        )
    return config
