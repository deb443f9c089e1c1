"""Orientation and size of stored pictures.

``--pictures`` says how they come to the policy's size: as in reinforcement learning (``rl``), or as in the OpenVLA-OFT
repository (``oft``, and ``oft_random_crop``, which crops what the former stores, see ``oft_augment``).
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from transformers_openvla_oft.official_images import official_pictures

PICTURES = {"rl": "rl", "oft": "oft", "oft_random_crop": "oft_center_crop"}
"""What --pictures may be, and the ``picture_path`` of ``PrismaticProcessor`` that a policy trained so acts with."""


def stored_form(pictures: str) -> str:
    """``rl`` or ``oft``: what is stored for a value of --pictures; random crops are taken from whole pictures."""
    return "rl" if pictures == "rl" else "oft"


def is_cropped(pictures: str) -> bool:
    """Whether the policy acts on the middle of each picture, and is trained on random crops of that size."""
    return PICTURES[pictures] == "oft_center_crop"


def rotate_180(images_THWC: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Reverse both image axes: from LIBERO's stored orientation to the one the policy sees."""
    turned_THWC = np.empty_like(images_THWC)
    for colour in range(images_THWC.shape[3]):  # numpy takes four times as long for all colours in one assignment
        turned_THWC[..., colour] = images_THWC[:, ::-1, ::-1, colour]
    return turned_THWC


def prepare_images(images_THWC: NDArray[np.uint8], *, image_size: int, pictures: str) -> NDArray[np.uint8]:
    """Upright pictures to (T, image_size, image_size, C) as they are stored for a value of --pictures.

    For the OFT repository's path every picture goes through JPEG, those of RLDS shards once more: the second pass
    keeps nearly all coefficients, and decodes as TensorFlow does, whose decoder differs from Pillow's. On a sample that
    TensorFlow decoded this leaves a mean difference of 0.5 grey levels instead of 1.3.
    """
    if stored_form(pictures) == "rl":
        return resize_images(images_THWC, image_size=image_size)
    return official_pictures(torch.from_numpy(images_THWC), size=image_size, center_crop=False).numpy()


def resize_images(images_THWC: NDArray[np.uint8], *, image_size: int) -> NDArray[np.uint8]:
    """Bicubic with antialiasing in float32, clamped and rounded: the policy's own image path up to its uint8 step.

    The result is stored as uint8, so resizing once here and again (to the same size, an identity) in the processor
    gives exactly the picture the policy sees in the environment. torch's uint8 kernel is faster but differs by
    several levels.
    """
    if images_THWC.shape[1:3] == (image_size, image_size):
        return images_THWC
    num_colours, size = images_THWC.shape[3], (image_size, image_size)
    resized_THWC = np.empty((len(images_THWC), *size, num_colours), dtype=np.uint8)
    # One picture at a time stays in the processor's cache and needs no fresh memory: half the time of all at once.
    pixels_1CHW = torch.empty((1, num_colours, *images_THWC.shape[1:3]))
    for image_HWC, resized_HWC in zip(images_THWC, resized_THWC, strict=True):
        pixels_1CHW[0].copy_(torch.from_numpy(image_HWC).permute(2, 0, 1))
        resized_1CHW = nn.functional.interpolate(
            pixels_1CHW, size=size, mode="bicubic", align_corners=False, antialias=True
        )
        resized_HWC[:] = resized_1CHW[0].clamp_(0, 255).round_().to(torch.uint8).permute(1, 2, 0).numpy()
    return resized_THWC
