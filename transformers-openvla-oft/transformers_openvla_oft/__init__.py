"""OpenVLA and OpenVLA-OFT policies for stock transformers."""

from .action_tokens import ActionTokenMap, action_entropy, action_log_probs, sample_bins
from .autoregressive import OpenVLAForAutoregressivePrediction
from .configuration import OpenVLAConfig
from .heads import ValueHead
from .modeling import ActionOutput, OpenVLAForActionPrediction, fsdp_units, lora_target_modules
from .processing import ImageSettings, PolicyBatch, PrismaticProcessor, resize_pictures
from .small import SmallSizes, TowerSizes, create_small_checkpoint, libero_sentences

__all__ = [
    "ActionOutput",
    "ActionTokenMap",
    "ImageSettings",
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
    "create_small_checkpoint",
    "fsdp_units",
    "libero_sentences",
    "lora_target_modules",
    "resize_pictures",
    "sample_bins",
]
