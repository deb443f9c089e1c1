"""Orientation and size of stored pictures."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn


def rotate_180(images_THWC: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Reverse both image axes: from LIBERO's stored orientation to the one the policy sees."""
    return np.ascontiguousarray(images_THWC[:, ::-1, ::-1])


def resize_images(images_THWC: NDArray[np.uint8], *, image_size: int) -> NDArray[np.uint8]:
    """Bicubic with antialiasing in float32, clamped and rounded: the policy's own image path up to its uint8 step.

    The result is stored as uint8, so resizing once here and again (to the same size, an identity) in the processor
    gives exactly the picture the policy sees in the environment. torch's uint8 kernel is faster but differs by
    several levels.
    """
    if images_THWC.shape[1:3] == (image_size, image_size):
        return images_THWC
    pixels_TCHW = torch.from_numpy(images_THWC).permute(0, 3, 1, 2).to(torch.float32)
    size = (image_size, image_size)
    resized_TCHW = nn.functional.interpolate(
        pixels_TCHW, size=size, mode="bicubic", align_corners=False, antialias=True
    )
    resized: NDArray[np.uint8] = (
        resized_TCHW.clamp_(0, 255).round_().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
    )
    return resized
