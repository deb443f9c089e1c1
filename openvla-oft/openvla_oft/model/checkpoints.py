"""Reading and writing a policy as a Hugging Face folder."""

from pathlib import Path

import torch
from torch import Tensor

from openvla_oft.options import SAVE_DTYPES
from transformers_openvla_oft.loading import reading
from transformers_openvla_oft.model.configuration import OpenVLAConfig
from transformers_openvla_oft.model.modeling import OpenVLAForActionPrediction
from transformers_openvla_oft.processing import PrismaticProcessor


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

    Raises:
        ValueError: weights hold NaN or infinity, of which nothing can be made, or do not fit ``save_dtype``.
    """
    broken = [name for name, tensor in tensors.items() if not bool(tensor.isfinite().all())]
    if broken:
        raise ValueError(
            f"{len(broken)} of {len(tensors)} weights are not finite and are not written, the first is {broken[0]}"
        )
    dtype = SAVE_DTYPES[save_dtype]
    for name, tensor in tensors.items():
        largest = float(tensor.abs().max())
        if tensor.is_floating_point() and largest > torch.finfo(dtype).max:
            advice = "use --save-dtype bfloat16 or float32"
            raise ValueError(f"{name} reaches {largest:g} and does not fit {save_dtype}; {advice}")
    stored = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    model.config.dtype = dtype
    model.save_pretrained(folder, state_dict=stored)
    processor.save_pretrained(folder)


def load_for_training(
    folder: Path, *, num_actions_chunk: int | None = None, num_images: int | None = None, attention: str = "sdpa"
) -> tuple[OpenVLAForActionPrediction, PrismaticProcessor]:
    """Model in float32 and processor of a checkpoint folder.

    num_actions_chunk, num_images: what it is used with instead of what its configuration says.

    Raises:
        ValueError: there is none, it is corrupt, or its weights are not the model's; no weight is ever made up.
    """
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
