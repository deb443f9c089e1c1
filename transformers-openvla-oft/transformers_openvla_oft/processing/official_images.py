"""The image path of the OpenVLA-OFT repository, which is TensorFlow's, without TensorFlow.

An image passes through JPEG at quality 95 (as the training data did), is resized with Lanczos' kernel (radius 3,
antialiased) and, for policies trained with random crops, cropped to nine tenths of its area around the centre. The path
of reinforcement learning is `PrismaticProcessor`'s; the two differ by a few grey levels.

Shapes: N images, H height, W width.
"""

from __future__ import annotations

import math
from functools import lru_cache
from io import BytesIO

import numpy as np
import simplejpeg
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

JPEG_QUALITY = 95
LANCZOS_RADIUS = 3.0
CROP_AREA = 0.9


def official_pictures(images_NHWC: Tensor, *, size: int, center_crop: bool) -> Tensor:
    """uint8 images of any size -> uint8 (N, size, size, 3), as that repository's evaluation gives its processor."""
    resized_NHWC = resize_lanczos(jpeg_round_trip(images_NHWC), size=size)
    return crop_center(resized_NHWC, size=size) if center_crop else resized_NHWC


def jpeg_round_trip(images_NHWC: Tensor) -> Tensor:
    """Compress and decompress every image, on the CPU; equal to TensorFlow's to the last bit."""
    decoded = [_through_jpeg(image_HWC) for image_HWC in images_NHWC.cpu().numpy()]
    return torch.from_numpy(np.stack(decoded)).to(images_NHWC.device)


def resize_lanczos(images_NHWC: Tensor, *, size: int) -> Tensor:
    """uint8 -> uint8 (N, size, size, 3), rounded. Where the size is right already nothing changes."""
    _, height, width, _ = images_NHWC.shape
    device = images_NHWC.device
    rows, columns = (_lanczos_weights(old, size).to(device) for old in (height, width))
    resized = torch.einsum("yh,nhwc->nywc", rows, images_NHWC.float())
    resized = torch.einsum("xw,nywc->nyxc", columns, resized)
    return resized.clamp(0, 255).round().to(torch.uint8)


def crop_center(images_NHWC: Tensor, *, size: int, area: float = CROP_AREA) -> Tensor:
    """The middle `area` of every image, bilinear and without antialiasing, uint8 (N, size, size, 3).

    The corners of the result are corners of the crop: sample points run from edge pixel to edge pixel.
    """
    _, height, width, _ = images_NHWC.shape
    device = images_NHWC.device
    side = math.sqrt(area)
    rows, columns = (_crop_weights(old, size, side).to(device) for old in (height, width))
    cropped = torch.einsum("yh,nhwc->nywc", rows, images_NHWC.float() / 255)
    cropped = torch.einsum("xw,nywc->nyxc", columns, cropped).clamp(0, 1)
    # That conversion stretches [0, 1] to 255.5 and cuts off the fraction.
    return (cropped * 255.5).clamp(max=255).to(torch.uint8)


def _through_jpeg(image_HWC: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Pillow compresses with the exact cosine transform, as TensorFlow does. Decompression takes the fast one, which is
    TensorFlow's default, sets it apart from other readers by some levels, and is out of Pillow's reach.
    """
    file = BytesIO()
    Image.fromarray(image_HWC).save(file, format="JPEG", quality=JPEG_QUALITY, subsampling="4:2:0")
    decoded_HWC: NDArray[np.uint8] = simplejpeg.decode_jpeg(file.getbuffer(), fastdct=True, fastupsample=False)
    return decoded_HWC


@lru_cache(maxsize=16)
def _lanczos_weights(old: int, new: int) -> Tensor:
    """(new, old): each new pixel's weights; the kernel is as wide as a new pixel where images shrink."""
    stretch = max(old / new, 1.0)
    centres = (torch.arange(new, dtype=torch.float64)[:, None] + 0.5) * old / new
    distances = (torch.arange(old, dtype=torch.float64)[None] + 0.5 - centres) / stretch
    weights = torch.sinc(distances) * torch.sinc(distances / LANCZOS_RADIUS) * (distances.abs() < LANCZOS_RADIUS)
    return (weights / weights.sum(dim=1, keepdim=True)).float()


@lru_cache(maxsize=16)
def _crop_weights(old: int, new: int, side: float) -> Tensor:
    """(new, old): bilinear weights at `new` points over the middle `side` of `old` pixels."""
    low, high = (1 - side) / 2 * (old - 1), (1 + side) / 2 * (old - 1)
    points = torch.linspace(low, high, new, dtype=torch.float64)
    return (1 - (points[:, None] - torch.arange(old, dtype=torch.float64)[None]).abs()).clamp(min=0).float()
