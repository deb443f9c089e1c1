"""Images: what a checkpoint says of them, what is accepted, and resizing as the RL code does it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from transformers_openvla_oft.loading import CheckpointError, broken, read_object
from transformers_openvla_oft.model.configuration import RESIZE_STRATEGY, OpenVLAConfig

PREPROCESSOR_FILE = "preprocessor_config.json"
INTERPOLATION = "bicubic"
PICTURE_PATHS = ("rl", "oft", "oft_center_crop")
# What is smaller than that was not meant for the model.
MAX_ENLARGEMENT = 4


@dataclass(frozen=True)
class ImageSettings:
    """Size and per-tower normalisation of the images."""

    image_size: int
    means: tuple[tuple[float, ...], ...]
    stds: tuple[tuple[float, ...], ...]

    @classmethod
    def read(cls, folder: Path, config: OpenVLAConfig) -> ImageSettings:
        """Those in the `preprocessor_config.json` of a checkpoint, whose model has the configuration `config`.

        Raises:
            CheckpointError: the file is missing, not what the published checkpoints have, or another model's.
        """
        expected = "size, means and standard deviations of the images of each vision tower"
        file, size = folder / PREPROCESSOR_FILE, config.image_size
        fields = read_object(file, expected=expected)
        for name, entry in (("input_sizes", [3, size, size]), ("interpolations", INTERPOLATION)):
            wanted = [entry] * config.num_towers
            if fields.get(name, wanted) != wanted:
                raise CheckpointError(
                    f"{file}: {name}={fields[name]}, but the model of config.json beside it needs {wanted}. Take both "
                    "files from the same checkpoint."
                )
        means, stds = (tuple(tuple(map(float, x)) for x in fields.get(name) or ()) for name in ("means", "stds"))
        if [*map(len, means), *map(len, stds)] != [3] * 2 * config.num_towers:
            why = f"means and stds must have three numbers for each of the {config.num_towers} towers"
            raise broken(file, f"{why}, given means={means} and stds={stds}", expected=expected)
        return cls(size, means, stds)

    def to_dict(self) -> dict[str, Any]:
        """The fields of a published `preprocessor_config.json` that carry information."""
        num_towers = len(self.means)
        return {
            "image_processor_type": "PrismaticImageProcessor",
            "processor_class": "PrismaticProcessor",
            "image_resize_strategy": RESIZE_STRATEGY,
            "input_sizes": [[3, self.image_size, self.image_size]] * num_towers,
            "interpolations": [INTERPOLATION] * num_towers,
            "means": [list(mean) for mean in self.means],
            "stds": [list(std) for std in self.stds],
            "use_fused_vision_backbone": num_towers == 2,
        }


def check_images(images_BNHWC: Tensor) -> None:
    """Raise ``ValueError`` unless they are uint8 (B, N, H, W, 3)."""
    if images_BNHWC.dtype != torch.uint8 or images_BNHWC.ndim != 5 or images_BNHWC.shape[-1] != 3:
        raise ValueError(
            "images must be uint8 of shape (batch, images, height, width, 3), given "
            f"{images_BNHWC.dtype} {tuple(images_BNHWC.shape)}"
        )


def resize_pictures(images_BNHWC: Tensor, *, size: int) -> Tensor:
    """Square uint8 images -> uint8 (B, N, size, size, 3), by `resize_bicubic`.

    Raises:
        ValueError: they are not square, or less than a quarter as large as they are to be.
    """
    height, width = images_BNHWC.shape[2:4]
    if height != width:
        raise ValueError(
            f"images must be square, given {height} x {width} pixels: they would be stretched to {size} x {size}. "
            "Cut them to a square, as the policy's training data is"
        )
    if height * MAX_ENLARGEMENT < size:
        raise ValueError(
            f"images of {height} x {width} pixels are too small for a model that reads {size} x {size}: give at "
            f"least {-(-size // MAX_ENLARGEMENT)} pixels a side"
        )
    resized_NHWC = resize_bicubic(images_BNHWC.flatten(0, 1), size=size)
    return resized_NHWC.view(*images_BNHWC.shape[:2], *resized_NHWC.shape[1:])


def resize_bicubic(images_NHWC: Tensor, *, size: int) -> Tensor:
    """uint8 images of any size -> uint8 (N, size, size, colours): bicubic with antialiasing in float32, clamped and
    rounded, on their device. Images of that size are given back as they are.
    """
    if images_NHWC.shape[1:3] == (size, size):
        return images_NHWC
    num_pictures, *_, num_colours = images_NHWC.shape
    resized_NHWC = images_NHWC.new_empty(num_pictures, size, size, num_colours)
    # On a CPU, one image at a time stays in the cache: half the time of all at once.
    num_together = 1 if images_NHWC.device.type == "cpu" else max(num_pictures, 1)
    for part_NHWC, resized_part_NHWC in zip(
        images_NHWC.split(num_together), resized_NHWC.split(num_together), strict=True
    ):
        pixels_NCHW = part_NHWC.permute(0, 3, 1, 2).float().contiguous()
        pixels_NCHW = functional.interpolate(
            pixels_NCHW, size=(size, size), mode="bicubic", antialias=True, align_corners=False
        )
        # Bicubic overshoots the range of uint8.
        resized_part_NHWC.copy_(pixels_NCHW.clamp_(0, 255).round_().permute(0, 2, 3, 1))
    return resized_NHWC
