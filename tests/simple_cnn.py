"""A tiny convolutional policy with random weights, for tests."""

from pathlib import Path

import torch

from rlinf.config.schema import ModelConfig
from rlinf.models import Policy, PolicySource, load_policy
from rlinf.models.simple_cnn import CNNSettings, fresh_cnn, save_cnn

BOUNDS = {"q01": [-1.0] * 6 + [0.0], "q99": [1.0] * 7, "mask": [True] * 6 + [False]}


def write_cnn(path: Path, *, hidden_size: int = 32) -> Path:
    """Write a checkpoint that reads 32-pixel pictures."""
    settings = CNNSettings(
        image_size=32,
        channels=(8, 16),
        squeezed_channels=4,
        hidden_size=hidden_size,
        token_size=4,
        norm_stats={"libero_spatial": {"action": BOUNDS}},
    )
    path.mkdir(parents=True)
    save_cnn(path, settings, fresh_cnn(settings, seed=1).state_dict())
    return path


def read_cnn(path: Path, *, weights: Path | None = None, critic: bool = False) -> Policy:
    """Load it, or other weights of the same sizes."""
    source = PolicySource(path, unnorm_key="libero_spatial", seed=3, critic=critic)
    model = ModelConfig(model_name="simple_cnn", is_lora=False, lora_path=str(weights) if weights else None)
    return load_policy(model, source, base_dtype=torch.float32)
