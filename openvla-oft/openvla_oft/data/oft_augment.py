"""The OpenVLA-OFT repository's image augmentation: a random crop of nine tenths of the area, then colours.

As its data loader does it with ``image_aug`` (TensorFlow's operations, in this order): crop and resize back, add to the
brightness, stretch the contrast of each colour about its mean, scale the saturation, turn the hue; each result is
clipped to [0, 1], the last one rounded to grey levels. Crops lie anywhere; the repository draws both offsets from one
seed, so that its crops lie on the diagonal of the image. A policy trained so acts on the middle crop.

Shapes: B samples, N cameras, H = W pixels, C = 3 colours.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from openvla_oft.data import augment
from transformers_openvla_oft.processing.official_images import CROP_AREA

SIDE = math.sqrt(CROP_AREA)
"""Side of a crop as a part of the image's."""


@dataclass(frozen=True)
class OftAugmentConfig:
    """Half-widths of uniform distributions; zero switches one off. Crops are always taken."""

    brightness: float = 0.2
    """Added, where images lie in [0, 1]."""
    contrast: float = 0.2
    saturation: float = 0.2
    hue: float = 0.05
    """Part of the colour circle."""

    @classmethod
    def crops_only(cls) -> "OftAugmentConfig":
        """Colours stay."""
        return cls(brightness=0.0, contrast=0.0, saturation=0.0, hue=0.0)

    def draw(self, *, num_samples: int, num_cameras: int, image_size: int, generator: torch.Generator) -> "OftDraw":
        """Draw on the generator's device."""
        shape = (num_samples, num_cameras)

        def uniform(*size: int) -> Tensor:
            return torch.rand(*size, generator=generator, device=generator.device)

        return OftDraw(
            shift_BN2=None,
            corner_BN2=(1 - SIDE) * uniform(*shape, 2),
            brightness_BN=self.brightness * (2 * uniform(*shape) - 1),
            contrast_BN=1 + self.contrast * (2 * uniform(*shape) - 1),
            saturation_BN=1 + self.saturation * (2 * uniform(*shape) - 1),
            hue_BN=self.hue * (2 * uniform(*shape) - 1),
        )


@dataclass(frozen=True)
class OftDraw(augment.ImageChange):
    """Random numbers for one batch; images are fetched whole."""

    corner_BN2: Tensor
    """First row and column of each crop, as parts of the image's sides."""
    brightness_BN: Tensor
    contrast_BN: Tensor
    saturation_BN: Tensor
    hue_BN: Tensor

    def apply(self, images_BNHWC: Tensor) -> Tensor:
        """Whole uint8 images to floats in [0, 1], multiples of 1 / 255."""
        pixels = crop(augment.plain(images_BNHWC), self.corner_BN2)
        pixels = (pixels + _per_image(self.brightness_BN)).clamp(0, 1)
        mean = pixels.mean(dim=(2, 3), keepdim=True)
        pixels = (mean + (pixels - mean) * _per_image(self.contrast_BN)).clamp(0, 1)
        pixels = saturate(pixels, _per_image(self.saturation_BN))
        return as_levels(turn_hue(pixels, _per_image(self.hue_BN)))


def crop(pixels_BNHWC: Tensor, corner_BN2: Tensor) -> Tensor:
    """Crops of nine tenths of the area, bilinear and without antialiasing at the size of the whole, clipped to [0, 1].

    Sample points run from edge pixel to edge pixel, as in ``tf.image.crop_and_resize``. In float32 under autocast too.
    """
    B, N, height, width, _ = pixels_BNHWC.shape
    rows_BNH, columns_BNW = (
        corner_BN2[..., axis, None] + SIDE * torch.linspace(0, 1, size, device=corner_BN2.device)
        for axis, size in enumerate((height, width))
    )
    shape = (B, N, height, width)
    points_BNHW2 = torch.stack([columns_BNW[:, :, None].expand(shape), rows_BNH[..., None].expand(shape)], dim=-1)
    cropped: Tensor = nn.functional.grid_sample(
        pixels_BNHWC.flatten(0, 1).permute(0, 3, 1, 2),
        2 * points_BNHW2.flatten(0, 1) - 1,
        mode="bilinear",
        padding_mode="border",
        align_corners=True,
    )
    return cropped.permute(0, 2, 3, 1).reshape(pixels_BNHWC.shape).clamp(0, 1)


def crop_center(pixels_BNHWC: Tensor) -> Tensor:
    """The middle crop in grey levels: what a policy that was trained on random crops acts on.

    The same as ``official_images.crop_center``, but float32 throughout where matrix products are not.
    """
    corner_BN2 = pixels_BNHWC.new_full((*pixels_BNHWC.shape[:2], 2), (1 - SIDE) / 2)
    return as_levels(crop(pixels_BNHWC, corner_BN2))


def as_levels(pixels: Tensor) -> Tensor:
    """[0, 1] to multiples of 1 / 255 as TensorFlow's conversion to uint8: stretched to 255.5, the fraction cut off."""
    return (pixels * 255.5).clamp(max=255).floor() * (1 / 255)


def saturate(pixels_BNHWC: Tensor, factors: Tensor) -> Tensor:
    """Multiply the saturation of HSV, up to 1; hue and value stay.

    The distance of a colour from the largest one is proportional to the saturation, (largest - smallest) / largest.
    """
    largest, smallest = pixels_BNHWC.amax(dim=-1, keepdim=True), pixels_BNHWC.amin(dim=-1, keepdim=True)
    full = largest / (largest - smallest).clamp_min(torch.finfo(pixels_BNHWC.dtype).tiny)
    return (largest - (largest - pixels_BNHWC) * torch.minimum(factors, full)).clamp(0, 1)


def turn_hue(pixels_BNHWC: Tensor, turns: Tensor) -> Tensor:
    """Turn the hue of HSV by parts of the colour circle; saturation and value stay."""
    red, green, blue = pixels_BNHWC.split(1, dim=-1)
    largest, smallest = pixels_BNHWC.amax(dim=-1, keepdim=True), pixels_BNHWC.amin(dim=-1, keepdim=True)
    spread = largest - smallest
    safe = torch.where(spread > 0, spread, 1)
    sixths = torch.where(
        largest == red,
        (green - blue) / safe,
        torch.where(largest == green, 2 + (blue - red) / safe, 4 + (red - green) / safe),
    )
    places_C = torch.tensor([5.0, 3.0, 1.0], device=pixels_BNHWC.device)
    distances = (places_C + sixths + 6 * turns) % 6
    away = torch.minimum(distances, 4 - distances).clamp(0, 1)
    return (largest - spread * away).clamp(0, 1)


def _per_image(numbers_BN: Tensor) -> Tensor:
    return numbers_BN[..., None, None, None]
