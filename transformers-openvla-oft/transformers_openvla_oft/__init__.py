"""OpenVLA and OpenVLA-OFT policies for stock transformers."""

from .action_tokens import (
    ActionTokenMap,
    NonFiniteLogitsError,
    action_entropy,
    action_log_probs,
    finite_rows,
    gripper_from_env,
    gripper_to_env,
    require_finite,
    sample_bins,
)
from .attention import ATTENTION_ROUTES, choose_attention
from .autoregressive import OpenVLAForAutoregressivePrediction
from .blocks import CHECKPOINTING_POLICIES, checkpoint_blocks, compile_blocks
from .configuration import OpenVLAConfig
from .heads import ValueHead
from .loading import CheckpointError
from .modeling import ActionOutput, OpenVLAForActionPrediction, fsdp_units, lora_target_modules
from .official_images import official_pictures
from .pictures import ImageSettings, resize_bicubic, resize_pictures
from .processing import PolicyBatch, PrismaticProcessor
from .registration import register
from .small import SmallSizes, TowerSizes, create_small_checkpoint, libero_sentences

register()

__all__ = [
    "ATTENTION_ROUTES",
    "CHECKPOINTING_POLICIES",
    "ActionOutput",
    "ActionTokenMap",
    "CheckpointError",
    "ImageSettings",
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
    "gripper_from_env",
    "gripper_to_env",
    "libero_sentences",
    "lora_target_modules",
    "official_pictures",
    "require_finite",
    "resize_bicubic",
    "resize_pictures",
    "sample_bins",
]
