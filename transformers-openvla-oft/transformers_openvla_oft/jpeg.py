"""What TensorFlow's JPEG round trip does to a picture, bit by bit: baseline JPEG at quality 95, chroma at half size.

The file itself is never made: entropy coding loses nothing. Compression uses the exact integer cosine transform
(Loeffler, Ligtenberg and Moschytz, 1989), decompression the fast one (Arai, Agui and Nakajima, 1988) with eight bits of
fraction, which is what TensorFlow's decoder takes by default and what sets it apart from other readers by some levels.

Shapes: N pictures, H height, W width, B blocks of 8 x 8; all numbers are integers.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]

QUALITY = 95
BLOCK, UNIT = 8, 16  # a unit is what one block of halved chroma covers
LUMA = (
    (16, 11, 10, 16, 24, 40, 51, 61), (12, 12, 14, 19, 26, 58, 60, 55), (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62), (18, 22, 37, 56, 68, 109, 103, 77), (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101), (72, 92, 95, 98, 112, 100, 103, 99),
)  # fmt: skip
CHROMA = (
    (17, 18, 24, 47, 99, 99, 99, 99), (18, 21, 26, 66, 99, 99, 99, 99), (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99), *((99,) * 8,) * 4,
)  # fmt: skip
AAN_SCALES = (1.0, 1.387039845, 1.306562965, 1.175875602, 1.0, 0.785694958, 0.541196100, 0.275899379)


def round_trip(images_NHWC: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """uint8 RGB pictures of any size, compressed and decompressed."""
    _, height, width, _ = images_NHWC.shape
    missing = ((0, 0), (0, -height % UNIT), (0, -width % UNIT), (0, 0))
    luma, blue, red = _to_ycc(np.pad(images_NHWC, missing, mode="edge").astype(np.int64))
    luma = _lossy(luma, LUMA)
    blue, red = (_upsample(_lossy(_halve(plane), CHROMA)) for plane in (blue, red))
    return _to_rgb(luma, blue, red)[:, :height, :width]


def _to_ycc(rgb: Ints) -> tuple[Ints, Ints, Ints]:
    r, g, b = rgb[..., 0], rgb[..., 1], rgb[..., 2]
    centre = (128 << 16) + (1 << 15) - 1
    return (
        (19595 * r + 38470 * g + 7471 * b + (1 << 15)) >> 16,
        (-11059 * r - 21709 * g + 32768 * b + centre) >> 16,
        (32768 * r - 27439 * g - 5329 * b + centre) >> 16,
    )


def _to_rgb(luma: Ints, blue: Ints, red: Ints) -> NDArray[np.uint8]:
    blue, red, half = blue - 128, red - 128, 1 << 15
    r = luma + ((91881 * red + half) >> 16)
    g = luma + ((-22554 * blue - 46802 * red + half) >> 16)
    b = luma + ((116130 * blue + half) >> 16)
    return np.stack([r, g, b], axis=-1).clip(0, 255).astype(np.uint8)


def _halve(plane: Ints) -> Ints:
    """Means of 2 x 2 pixels; ties go down in even columns and up in odd ones."""
    total = plane[:, ::2, ::2] + plane[:, ::2, 1::2] + plane[:, 1::2, ::2] + plane[:, 1::2, 1::2]
    bias = 1 + np.arange(total.shape[2]) % 2
    return (total + bias) >> 2


def _upsample(plane: Ints) -> Ints:
    """Twice the size: each new pixel is 9, 3, 3 and 1 sixteenths of the four around it."""
    N, height, width = plane.shape
    tall = np.pad(plane, ((0, 0), (1, 1), (0, 0)), mode="edge")
    rows = np.stack([3 * plane + tall[:, :-2], 3 * plane + tall[:, 2:]], axis=2).reshape(N, 2 * height, width)
    wide = np.pad(rows, ((0, 0), (0, 0), (1, 1)), mode="edge")
    left, right = (3 * rows + wide[..., :-2] + 8) >> 4, (3 * rows + wide[..., 2:] + 7) >> 4
    return np.stack([left, right], axis=3).reshape(N, 2 * height, 2 * width)


def _lossy(plane: Ints, table: tuple[tuple[int, ...], ...]) -> Ints:
    """One channel through its blocks."""
    steps = _steps(table)
    N, height, width = plane.shape
    blocks = plane.reshape(N, height // BLOCK, BLOCK, width // BLOCK, BLOCK).swapaxes(2, 3)
    kept = _quantise(_forward(blocks - 128), steps)
    decoded = _inverse(kept * _multipliers(table))
    return decoded.swapaxes(2, 3).reshape(N, height, width)


@cache
def _steps(table: tuple[tuple[int, ...], ...]) -> Ints:
    """Quantisation at this quality, which is above 50."""
    steps: Ints = (np.array(table, dtype=np.int64) * (200 - 2 * QUALITY) + 50) // 100
    return steps.clip(1, 255)


@cache
def _multipliers(table: tuple[tuple[int, ...], ...]) -> Ints:
    """What a kept number is multiplied with, two bits of fraction: the step and the fast transform's own scales."""
    scales = np.rint(np.outer(AAN_SCALES, AAN_SCALES) * (1 << 14)).astype(np.int64)
    return _shift(_steps(table) * scales, 12)


def _shift(numbers: Ints, bits: int) -> Ints:
    """Divided by a power of two and rounded, halves up."""
    return (numbers + (1 << (bits - 1))) >> bits


def _quantise(coefficients: Ints, steps: Ints) -> Ints:
    """The transform leaves eight times the coefficient; halves go away from zero."""
    divisor = 8 * steps
    kept: Ints = np.sign(coefficients) * ((np.abs(coefficients) + divisor // 2) // divisor)
    return kept


def _forward(blocks: Ints) -> Ints:
    """Exact cosine transform, times eight: rows with two bits of fraction, then columns without."""
    return _forward_pass(_forward_pass(blocks, -1, even_up=2, down=11), -2, even_up=-2, down=15)


def _forward_pass(blocks: Ints, axis: int, *, even_up: int, down: int) -> Ints:
    x = np.moveaxis(blocks, axis, 0)
    s0, s1, s2, s3 = (x[i] + x[7 - i] for i in range(4))
    d0, d1, d2, d3 = (x[i] - x[7 - i] for i in range(4))
    t0, t3, t1, t2 = s0 + s3, s0 - s3, s1 + s2, s1 - s2

    def plain(value: Ints) -> Ints:
        return value << even_up if even_up > 0 else _shift(value, -even_up)

    z = (t2 + t3) * _fixed(0.541196100)
    out0, out4 = plain(t0 + t1), plain(t0 - t1)
    out2, out6 = _shift(z + t3 * _fixed(0.765366865), down), _shift(z - t2 * _fixed(1.847759065), down)
    z5 = (d3 + d1 + d2 + d0) * _fixed(1.175875602)
    z1, z2 = -(d3 + d0) * _fixed(0.899976223), -(d2 + d1) * _fixed(2.562915447)
    z3, z4 = z5 - (d3 + d1) * _fixed(1.961570560), z5 - (d2 + d0) * _fixed(0.390180644)
    out7 = _shift(d3 * _fixed(0.298631336) + z1 + z3, down)
    out5 = _shift(d2 * _fixed(2.053119869) + z2 + z4, down)
    out3 = _shift(d1 * _fixed(3.072711026) + z2 + z3, down)
    out1 = _shift(d0 * _fixed(1.501321110) + z1 + z4, down)
    return np.moveaxis(np.stack([out0, out1, out2, out3, out4, out5, out6, out7]), 0, axis)


def _fixed(value: float) -> int:
    return round(value * (1 << 13))


def _inverse(coefficients: Ints) -> Ints:
    """Fast cosine transform back to pixels. Its shifts cut fractions off, which darkens by half a level on average."""
    pixels = _inverse_pass(_inverse_pass(coefficients, -2), -1)
    return ((pixels >> 5) + 128).clip(0, 255)


def _inverse_pass(blocks: Ints, axis: int) -> Ints:
    x = np.moveaxis(blocks, axis, 0)

    def times(value: Ints, factor: int) -> Ints:
        return (value * factor) >> 8

    a, b, c = x[0] + x[4], x[0] - x[4], x[2] + x[6]
    d = times(x[2] - x[6], 362) - c
    even = (a + c, b + d, b - d, a - c)
    z13, z10, z11, z12 = x[5] + x[3], x[5] - x[3], x[1] + x[7], x[1] - x[7]
    odd0 = z11 + z13
    z5 = times(z10 + z12, 473)
    odd1 = times(z10, -669) + z5 - odd0
    odd2 = times(z11 - z13, 362) - odd1
    odd3 = times(z12, 277) - z5 + odd2
    top = (even[0] + odd0, even[1] + odd1, even[2] + odd2, even[3] - odd3)
    bottom = (even[3] + odd3, even[2] - odd2, even[1] - odd1, even[0] - odd0)
    return np.moveaxis(np.stack([*top, *bottom]), 0, axis)
