"""Procedural textures under the file names that hf-libero's floor and wall styles refer to.

Everything is drawn from a fixed seed, tiles without seams, and costs a few milliseconds per picture.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Color = tuple[int, int, int]
Field = NDArray[np.float64]  # (size, size), around 0
Picture = NDArray[np.float64]  # (size, size, 3), 0..255

SIZE = 256


def _noise(rng: np.random.Generator, scale_x: float, scale_y: float) -> Field:
    """Periodic Gaussian noise of unit spread; the scales are correlation lengths in pixels."""
    white = np.fft.fft2(rng.standard_normal((SIZE, SIZE)))
    frequency_y, frequency_x = np.meshgrid(np.fft.fftfreq(SIZE), np.fft.fftfreq(SIZE), indexing="ij")
    smooth = np.exp(-2 * np.pi**2 * ((frequency_x * scale_x) ** 2 + (frequency_y * scale_y) ** 2))
    field: Field = np.real(np.fft.ifft2(white * smooth))
    field /= field.std()
    return field


def _shade(color: Color, brightness: Field) -> Picture:
    """`color` made brighter or darker by `brightness`, as a fraction."""
    picture: Picture = np.array(color, dtype=np.float64) * (1 + brightness[..., None])
    return picture


def _plaster(color: Color) -> Callable[[np.random.Generator], Picture]:
    return lambda rng: _shade(color, 0.018 * _noise(rng, 1.5, 1.5) + 0.015 * _noise(rng, 14, 14))


def _linen(color: Color) -> Callable[[np.random.Generator], Picture]:
    """Threads across and along."""
    return lambda rng: _shade(color, 0.03 * _noise(rng, 8, 0.7) + 0.03 * _noise(rng, 0.7, 8))


def _marble(color: Color) -> Callable[[np.random.Generator], Picture]:
    """Dark veins where slow noise crosses zero."""

    def draw(rng: np.random.Generator) -> Picture:
        veins = np.exp(-((_noise(rng, 22, 22) / 0.05) ** 2))
        return _shade(color, 0.02 * _noise(rng, 10, 10) - 0.16 * veins)

    return draw


def _tiles(color: Color, grout: Color, num_tiles: int) -> Callable[[np.random.Generator], Picture]:
    """Square tiles of slightly different tones, `num_tiles` along a side."""

    def draw(rng: np.random.Generator) -> Picture:
        side = SIZE // num_tiles
        tone = np.kron(rng.standard_normal((num_tiles, num_tiles)), np.ones((side, side)))
        picture = _shade(color, 0.02 * tone + 0.015 * _noise(rng, 4, 4))
        row, column = np.indices((SIZE, SIZE)) % side
        picture[(row < 2) | (column < 2)] = grout
        return picture

    return draw


def _wood(color: Color, *, num_planks: int = 1) -> Callable[[np.random.Generator], Picture]:
    """Long grain, in planks of slightly different tones."""

    def draw(rng: np.random.Generator) -> Picture:
        grain = 0.055 * _noise(rng, 60, 1.2) + 0.05 * _noise(rng, 90, 6)
        if num_planks > 1:
            side = SIZE // num_planks
            tone = np.repeat(rng.standard_normal(num_planks), side)[:, None]
            grain = grain + 0.05 * tone
            grain[np.arange(SIZE) % side < 1] -= 0.3
        return _shade(color, grain)

    return draw


def _wicker(color: Color, *, num_strands: int, num_stakes: int) -> Callable[[np.random.Generator], Picture]:
    """Strands that go over one stake and under the next, every other row the other way."""

    def draw(rng: np.random.Generator) -> Picture:
        row, column = np.indices((SIZE, SIZE)) / SIZE
        strand = np.floor(row * num_strands)
        across = np.sin(np.pi * (row * num_strands - strand))
        over = np.cos(np.pi * (column * num_stakes + strand))
        tone = np.repeat(rng.standard_normal(num_strands), SIZE // num_strands)[:, None]
        height = across * (0.6 + 0.4 * over)
        return _shade(color, 0.7 * height - 0.42 + 0.05 * tone + 0.04 * _noise(rng, 9, 0.8))

    return draw


TEXTURES: dict[str, Callable[[np.random.Generator], Picture]] = {
    # floors
    "dark_floor_texture": _tiles((74, 70, 68), (52, 50, 48), 2),
    "rustic_floor": _wood((134, 104, 78), num_planks=4),
    "light-gray-floor-tile": _tiles((186, 186, 184), (150, 150, 148), 2),
    "white_marble_floor": _marble((228, 227, 224)),
    "seamless_wood_planks_floor": _wood((172, 130, 92), num_planks=8),
    "brown_ceramic_tile": _tiles((150, 112, 84), (112, 88, 70), 4),
    "gray_ceramic_tile": _tiles((158, 160, 162), (122, 124, 126), 4),
    "tile_grigia_caldera_porcelain_floor": _tiles((142, 138, 134), (116, 112, 108), 2),
    # walls
    "light_blue_wall": _plaster((176, 202, 222)),
    "dark_blue_wall": _plaster((52, 74, 112)),
    "dark_gray_plaster": _plaster((104, 104, 106)),
    "gray_plaster": _plaster((150, 150, 150)),
    "dark_green_plaster_wall": _plaster((58, 86, 70)),
    "light-gray-plaster": _plaster((204, 203, 200)),
    "ceramic": _marble((222, 218, 210)),
    "white_wall": _plaster((236, 236, 234)),
    "yellow_linen_wall_texture": _linen((220, 200, 150)),
    # baskets
    "wicker": _wicker((222, 170, 108), num_strands=8, num_stakes=4),
    # furniture
    "wood_table": _wood((196, 152, 106), num_planks=2),
    "wood_dark": _wood((190, 180, 172)),
    "coffee_table": _wood((150, 100, 66), num_planks=2),
    "desk": _wood((124, 78, 50), num_planks=2),
    "metal_legs": _plaster((150, 150, 155)),
}


def build_texture(name: str) -> bytes:
    """The PNG file of one texture; the same bytes every time."""
    if name not in TEXTURES:
        raise ValueError(f"no texture {name!r}; there are {sorted(TEXTURES)}")
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    picture = np.clip(TEXTURES[name](rng), 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG")
    return buffer.getvalue()
