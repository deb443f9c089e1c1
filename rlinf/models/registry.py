"""The table of policies, and the one place that reads a model's name."""

from collections.abc import Callable
from pathlib import Path

import torch

from rlinf.config import ConfigError
from rlinf.config.schema import ModelConfig
from rlinf.models.openvla_oft import load_openvla_oft
from rlinf.models.policy import Policy

Loader = Callable[[ModelConfig, Path, str, torch.dtype, int], Policy]

POLICIES: dict[str, Loader] = {"openvla_oft": load_openvla_oft}


def load_policy(
    model: ModelConfig, *, checkpoint: Path, unnorm_key: str, base_dtype: torch.dtype, seed: int
) -> Policy:
    """Load the base checkpoint and its adapter, on the CPU.

    base_dtype: precision of the frozen weights; trainable weights are float32.
    seed: of a fresh adapter; every rank and every rollout worker must give the same.
    """
    if model.model_name not in POLICIES:
        raise ConfigError(f"actor.model.model_name={model.model_name} is not known; expected: {', '.join(POLICIES)}")
    return POLICIES[model.model_name](model, checkpoint, unnorm_key, base_dtype, seed)
