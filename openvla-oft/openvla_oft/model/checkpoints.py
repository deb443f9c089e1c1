"""Writing a trained policy as a Hugging Face folder, complete or not at all."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from openvla_oft.data.statistics import Statistics
from openvla_oft.json_files import read_object
from transformers_openvla_oft.loading import reading
from transformers_openvla_oft.model.configuration import OpenVLAConfig
from transformers_openvla_oft.model.modeling import OpenVLAForActionPrediction
from transformers_openvla_oft.processing import PrismaticProcessor

STATISTICS_FILE = "dataset_statistics.json"
SAVE_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def norm_stats_key(suite: str) -> str:
    """The name OpenVLA checkpoints give a LIBERO suite's statistics.

    OpenVLA's own data drops idle steps, hence the name. Ours keeps them (a closing gripper needs its waiting time); the
    name is kept because every reader of these checkpoints looks for it.
    """
    return f"{suite}_no_noops"


def save_policy(
    folder: Path,
    *,
    model: OpenVLAForActionPrediction,
    tensors: dict[str, Tensor],
    processor: PrismaticProcessor,
    save_dtype: str,
) -> None:
    """Write weights, config, tokenizer and processor into an existing folder.

    tensors: the whole weights in CPU memory, by their names in ``model``, which may itself be sharded.
    """
    check_finite(tensors)
    dtype = SAVE_DTYPES[save_dtype]
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not float(tensor.abs().max()) <= torch.finfo(dtype).max:
            raise ValueError(
                f"{name} reaches {float(tensor.abs().max()):g} and does not fit {save_dtype}; "
                f"use --save-dtype bfloat16 or float32"
            )
    stored = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    model.config.dtype = dtype
    model.save_pretrained(folder, state_dict=stored)
    processor.save_pretrained(folder)


def check_finite(tensors: Mapping[str, Tensor]) -> None:
    """Refuse to write weights of which nothing can be made.

    Raises:
        ValueError: lists those that hold NaN or infinity.
    """
    broken = [name for name, tensor in tensors.items() if not bool(tensor.isfinite().all())]
    if broken:
        raise ValueError(
            f"{len(broken)} of {len(tensors)} weights are not finite and are not written, the first is {broken[0]}; "
            f"lower --lr"
        )


def save_statistics(folder: Path, statistics: Mapping[str, Statistics]) -> None:
    """Write ``dataset_statistics.json``."""
    (folder / STATISTICS_FILE).write_text(json.dumps(statistics, indent=1) + "\n", encoding="utf-8")


def stored_statistics(folder: Path) -> dict[str, Statistics]:
    """``dataset_statistics.json`` of a folder by key; empty where there is none.

    Raises:
        ValueError: it is no such file.
    """
    file = folder / STATISTICS_FILE
    if not file.is_file():
        return {}
    stored = read_object(file)
    bounds = ("q01", "q99")
    for key, statistics in stored.items():
        action = statistics.get("action") if isinstance(statistics, dict) else None
        if not isinstance(action, dict) or not all(isinstance(action.get(name), list) for name in bounds):
            raise ValueError(f"{file}: {key!r} has no 'action' with the lists {bounds}; copy or write the file again")
    return stored


def check_is_checkpoint(folder: Path) -> None:
    """Raise where there is no checkpoint at all."""
    if not (folder / "config.json").is_file():
        raise ValueError(f"--init {folder}: no config.json there; expected 'small' or a Hugging Face checkpoint folder")


def load_for_training(
    folder: Path, *, num_actions_chunk: int | None = None, num_images: int | None = None, attention: str = "sdpa"
) -> tuple[OpenVLAForActionPrediction, PrismaticProcessor]:
    """Model in float32 and processor of a checkpoint folder.

    num_actions_chunk, num_images: what it is used with instead of what its configuration says.

    Raises:
        ValueError: there is none, it is corrupt, or its weights are not the model's; no weight is ever made up.
    """
    check_is_checkpoint(folder)
    with reading(folder):
        config: OpenVLAConfig = OpenVLAConfig.from_pretrained(folder)
    if num_actions_chunk is not None:
        config.num_actions_chunk = num_actions_chunk
    if num_images is not None:
        config.num_images_in_input = num_images
    model = OpenVLAForActionPrediction.from_pretrained(
        folder, config=config, dtype=torch.float32, attn_implementation=attention
    )
    assert isinstance(model, OpenVLAForActionPrediction)
    # As many slots as the longest prompt of the data needs: a fifth less work for the published 128.
    processor = PrismaticProcessor.from_pretrained(folder, prompt_multiple=1)
    processor.num_images = model.config.num_images_in_input
    return model, processor


def image_size_of(config: OpenVLAConfig) -> int:
    """Side of the model's square pictures."""
    sizes = config.image_sizes
    if not sizes:
        raise ValueError("the checkpoint's config has no image_sizes")
    return int(sizes[0])
