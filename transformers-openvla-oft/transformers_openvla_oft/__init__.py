"""OpenVLA and OpenVLA-OFT policies for stock transformers.

Importing the package makes transformers' auto classes find its classes. Published checkpoints name remote code in
`auto_map`; classes registered here are taken instead, without asking whether that code may run.
"""

import transformers
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from .loading import CheckpointError
from .model.action_tokens import (
    ActionTokenMap,
    NonFiniteLogitsError,
    action_entropy,
    action_log_probs,
    finite_rows,
    require_finite,
    sample_bins,
)
from .model.blocks import checkpoint_blocks, compile_blocks
from .model.configuration import OpenVLAConfig
from .model.heads import ValueHead
from .model.language import choose_attention
from .model.modeling import (
    ActionOutput,
    OpenVLAForActionPrediction,
    OpenVLAForAutoregressivePrediction,
    fsdp_units,
    lora_target_modules,
)
from .processing.processor import PolicyBatch, PrismaticProcessor
from .small import SmallSizes, TowerSizes, create_small_checkpoint

# transformers 5 dropped the second of these names, which the published checkpoints use.
MODEL_CLASSES = ("AutoModelForImageTextToText", "AutoModelForVision2Seq")


def register() -> None:
    """Register configuration, processor and model; once or more often; done by importing the package."""
    AutoConfig.register(OpenVLAConfig.model_type, OpenVLAConfig, exist_ok=True)
    AutoProcessor.register(OpenVLAConfig, PrismaticProcessor, exist_ok=True)
    for name in MODEL_CLASSES:
        auto_class: type[AutoModelForImageTextToText] | None = getattr(transformers, name, None)
        if auto_class is not None:
            auto_class.register(OpenVLAConfig, OpenVLAForActionPrediction, exist_ok=True)


register()

__all__ = [
    "ActionOutput",
    "ActionTokenMap",
    "CheckpointError",
    "NonFiniteLogitsError",
    "OpenVLAConfig",
    "OpenVLAForActionPrediction",
    "OpenVLAForAutoregressivePrediction",
    "PolicyBatch",
    "PrismaticProcessor",
    "SmallSizes",
    "TowerSizes",
    "ValueHead",
    "action_entropy",
    "action_log_probs",
    "checkpoint_blocks",
    "choose_attention",
    "compile_blocks",
    "create_small_checkpoint",
    "finite_rows",
    "fsdp_units",
    "lora_target_modules",
    "require_finite",
    "sample_bins",
]
