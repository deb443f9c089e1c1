"""Image augmentation on the device that holds the frames: shift, brightness, contrast, colour and noise.

A policy trained on images of one renderer (EGL on a GPU) also has to work on another's (software rendering), whose
edges, shading and colours differ slightly; the camera is fixed, so small shifts are the geometry to be robust to.

Random numbers are drawn by ``AugmentConfig.draw`` and used by the pure ``fetch`` and ``AugmentDraw.apply``, so that
these can be compiled and tested. ``oft_augment`` has the OpenVLA-OFT repository's augmentation instead.
Shapes: F frames in memory, B samples, N cameras, H = W pixels, C = 3 colour channels.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import Self

import torch
from torch import Tensor


@dataclass(frozen=True)
class ImageChange(ABC):
    """What happens to the images of a batch: random numbers, a row for each sample."""

    shift_BN2: Tensor | None
    """Whole pixels (rows and columns, int64) to move images by when they are fetched, see ``fetch``; None: none."""

    @abstractmethod
    def apply(self, images_BNHWC: Tensor) -> Tensor:
        """Fetched uint8 images to floats in [0, 1]."""

    def part(self, samples: slice) -> Self:
        """What happens to some samples."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return type(self)(**{name: None if value is None else value[samples] for name, value in values.items()})


@dataclass(frozen=True)
class AugmentConfig:
    """Half-widths of uniform distributions; zero switches one off."""

    shift: int = 2
    """Pixels in each direction; edges are repeated. The camera is fixed, so a large shift hides where things are."""
    brightness: float = 0.15
    contrast: float = 0.15
    colour: float = 0.05
    """Separate gain per colour channel."""
    noise: float = 0.02
    """Largest standard deviation of Gaussian pixel noise, drawn per image; images lie in [0, 1]."""

    def __post_init__(self) -> None:
        if max(self.brightness, self.contrast, self.colour) >= 1:  # the other augmentation's are not relative
            raise ValueError(f"brightness, contrast and colour are relative and must be below 1, given {self}")

    @classmethod
    def off(cls) -> "AugmentConfig":
        """Nothing is changed."""
        return cls(shift=0, brightness=0.0, contrast=0.0, colour=0.0, noise=0.0)

    def draw(self, *, num_samples: int, num_cameras: int, image_size: int, generator: torch.Generator) -> "AugmentDraw":
        """Draw on the generator's device."""
        device = generator.device
        shape = (num_samples, num_cameras)

        def uniform(*size: int, half_width: float) -> Tensor:
            return 1 + half_width * (2 * torch.rand(*size, generator=generator, device=device) - 1)

        shift_BN2 = torch.randint(-self.shift, self.shift + 1, (*shape, 2), generator=generator, device=device)
        brightness_BN1 = uniform(*shape, 1, half_width=self.brightness)
        colour_BNC = uniform(*shape, 3, half_width=self.colour)
        contrast_BN = uniform(*shape, half_width=self.contrast)
        noise_std_BN = self.noise * torch.rand(*shape, generator=generator, device=device)
        noise_BNHWC = None
        if self.noise > 0:
            size = (*shape, image_size, image_size, 3)
            noise_BNHWC = torch.randn(size, generator=generator, device=device, dtype=torch.float32)
        return AugmentDraw(
            shift_BN2=shift_BN2,
            gain_BNC=brightness_BN1 * colour_BNC,
            contrast_BN=contrast_BN,
            noise_std_BN=noise_std_BN,
            noise_BNHWC=noise_BNHWC,
        )


@dataclass(frozen=True)
class AugmentDraw(ImageChange):
    """Random numbers for one batch."""

    shift_BN2: Tensor
    gain_BNC: Tensor
    """Brightness times colour gain."""
    contrast_BN: Tensor
    noise_std_BN: Tensor
    noise_BNHWC: Tensor | None

    def apply(self, images_BNHWC: Tensor) -> Tensor:
        """Images that were shifted already to floats in [0, 1], with gains, contrast about each image's mean, noise."""
        pixels = plain(images_BNHWC) * self.gain_BNC[:, :, None, None, :]
        mean = pixels.mean(dim=(2, 3, 4), keepdim=True)
        pixels = mean + (pixels - mean) * self.contrast_BN[:, :, None, None, None]
        if self.noise_BNHWC is not None:
            pixels = pixels + self.noise_BNHWC * self.noise_std_BN[:, :, None, None, None]
        return pixels.clamp(0, 1)


def fetch(images_FNHWC: Tensor, frames_B: Tensor, shift_BN2: Tensor) -> Tensor:
    """Gather frames and shift them in one indexing kernel: (B, N, H, W, C) uint8; pixels beyond an edge repeat it."""
    num_cameras, height, width = images_FNHWC.shape[1:4]
    rows_BNH = (torch.arange(height, device=frames_B.device) + shift_BN2[..., :1]).clamp(0, height - 1)
    columns_BNW = (torch.arange(width, device=frames_B.device) + shift_BN2[..., 1:]).clamp(0, width - 1)
    cameras_N = torch.arange(num_cameras, device=frames_B.device)
    return images_FNHWC[
        frames_B[:, None, None, None], cameras_N[:, None, None], rows_BNH[..., :, None], columns_BNW[..., None, :]
    ]


def plain(images_BNHWC: Tensor) -> Tensor:
    """uint8 images to floats in [0, 1], unchanged."""
    return images_BNHWC.to(torch.float32) * (1 / 255)
