"""The table of policies, and the one place that reads a model's name."""

from collections.abc import Callable

import torch

from rlinf.config import ConfigError
from rlinf.config.schema import ModelConfig
from rlinf.models.openvla_oft import load_openvla_oft
from rlinf.models.policy import Policy, PolicySource

Loader = Callable[[ModelConfig, PolicySource, torch.dtype], Policy]

POLICIES: dict[str, Loader] = {"openvla_oft": load_openvla_oft}


def load_policy(model: ModelConfig, source: PolicySource, *, base_dtype: torch.dtype) -> Policy:
    """Load the base checkpoint and its adapter, on the CPU.

    base_dtype: precision of the frozen weights; trainable weights are float32.

    Raises:
        ConfigError: there is no such policy, or checkpoint and configuration do not fit.
    """
    if model.model_name not in POLICIES:
        raise ConfigError(f"actor.model.model_name={model.model_name} is not known; expected: {', '.join(POLICIES)}")
    return POLICIES[model.model_name](model, source, base_dtype)
