"""Writing a trained policy as a Hugging Face folder, complete or not at all."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

from openvla_oft.statistics import Statistics
from transformers_openvla_oft.autoregressive import model_class
from transformers_openvla_oft.configuration import OpenVLAConfig
from transformers_openvla_oft.modeling import OpenVLAForActionPrediction
from transformers_openvla_oft.processing import PrismaticProcessor

STATISTICS_FILE = "dataset_statistics.json"
TRAINING_FILE = "training.json"
SAVE_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
WEIGHT_PATTERNS = ("*.safetensors", "*.safetensors.index.json", "*.bin")


def norm_stats_key(suite: str) -> str:
    """The name OpenVLA checkpoints give a LIBERO suite's statistics.

    OpenVLA's own data drops idle steps, hence the name. Ours keeps them (a closing gripper needs its waiting time); the
    name is kept because every reader of these checkpoints looks for it.
    """
    return f"{suite}_no_noops"


def save_checkpoint(
    folder: Path,
    *,
    model: OpenVLAForActionPrediction,
    processor: PrismaticProcessor,
    statistics: Mapping[str, Statistics],
    save_dtype: str,
) -> None:
    """Write weights, config, tokenizer, processor and statistics into an existing folder; casts the model in place."""
    dtype = SAVE_DTYPES[save_dtype]
    largest = max(float(parameter.detach().abs().max()) for parameter in model.parameters())
    if not largest <= torch.finfo(dtype).max:
        raise ValueError(f"weights reach {largest:g} and do not fit {save_dtype}; use --save-dtype bfloat16 or float32")
    model.config.norm_stats = {**(model.config.norm_stats or {}), **statistics}
    nn.Module.to(model, dtype)  # transformers hides the types of its own `to`
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    (folder / STATISTICS_FILE).write_text(json.dumps(statistics, indent=1) + "\n", encoding="utf-8")


def load_for_training(folder: Path) -> tuple[OpenVLAForActionPrediction, PrismaticProcessor]:
    """Model in float32 and processor of a checkpoint folder."""
    if not (folder / "config.json").is_file():
        raise ValueError(f"--init {folder}: no config.json there; expected 'small' or a Hugging Face checkpoint folder")
    model = model_class(OpenVLAConfig.from_pretrained(folder)).from_pretrained(folder, dtype=torch.float32)
    return model, PrismaticProcessor.from_pretrained(folder)


def image_size_of(config: OpenVLAConfig) -> int:
    """Side of the model's square pictures."""
    sizes = config.image_sizes
    if not sizes:
        raise ValueError("the checkpoint's config has no image_sizes")
    return int(sizes[0])


def remove(folder: Path) -> None:
    """Delete an unfinished or replaced checkpoint folder if it is there."""
    shutil.rmtree(folder, ignore_errors=True)
