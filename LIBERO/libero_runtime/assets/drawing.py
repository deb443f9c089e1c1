"""A canvas in millimetres for the prints on packages, and sheets that hold the six faces of a box."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from libero_runtime.assets.meshes import FACES, SHEET_COLUMNS, SHEET_ROWS, WRAP_MARGIN

Color = tuple[int, int, int]
Box = tuple[float, float, float, float]  # left, top, right, bottom in millimetres from the upper left corner

_PIXELS_PER_MM = 6  # drawn at this and made smaller afterwards: edges come out smooth
CELL_PIXELS = 160
_WRAP_PIXELS = (512, 256)

WHITE: Color = (250, 248, 242)
BLACK: Color = (24, 20, 20)


@functools.cache
def font(face: str, size: int) -> ImageFont.FreeTypeFont:
    """One of the typefaces that matplotlib brings, such as `DejaVuSans-Bold`, at a size in pixels."""
    return ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts", "ttf", f"{face}.ttf")), size)


class Canvas:
    """A picture of the given size in millimetres; every method draws and returns the canvas."""

    def __init__(self, width_mm: float, height_mm: float, color: Color) -> None:
        self.width_mm, self.height_mm = width_mm, height_mm
        size = round(width_mm * _PIXELS_PER_MM), round(height_mm * _PIXELS_PER_MM)
        self._image = Image.new("RGB", size, color)
        self._draw = ImageDraw.Draw(self._image)

    def _pixels(self, values: Sequence[float]) -> list[float]:
        return [value * _PIXELS_PER_MM for value in values]

    def box(self, box: Box, color: Color, *, radius: float = 0.0) -> Canvas:
        self._draw.rounded_rectangle(self._pixels(box), radius=radius * _PIXELS_PER_MM, fill=color)
        return self

    def band(self, top: float, bottom: float, color: Color) -> Canvas:
        """A stripe over the whole width."""
        return self.box((0, top, self.width_mm, bottom), color)

    def ellipse(self, x: float, y: float, half_width: float, half_height: float, color: Color) -> Canvas:
        corners = (x - half_width, y - half_height, x + half_width, y + half_height)
        self._draw.ellipse(self._pixels(corners), fill=color)
        return self

    def polygon(self, points: Sequence[tuple[float, float]], color: Color) -> Canvas:
        self._draw.polygon([(x * _PIXELS_PER_MM, y * _PIXELS_PER_MM) for x, y in points], fill=color)
        return self

    def text(self, text: str, box: Box, color: Color, *, face: str = "DejaVuSans-Bold", turn: int = 0) -> Canvas:
        """Letters as large as fit in `box`, in its middle; `turn` in degrees against the clock, multiples of 90."""
        x0, y0, x1, y1 = self._pixels(box)
        width, height = (x1 - x0, y1 - y0) if turn % 180 == 0 else (y1 - y0, x1 - x0)
        left, top, right, bottom = font(face, 100).getbbox(text)
        fitted = font(face, max(4, int(100 * min(width / (right - left), height / (bottom - top)))))
        left, top, right, bottom = fitted.getbbox(text)
        stamp = Image.new("L", (math.ceil(right - left), math.ceil(bottom - top)))
        ImageDraw.Draw(stamp).text((-left, -top), text, font=fitted, fill=255)
        stamp = stamp.rotate(turn, expand=True)
        position = round((x0 + x1 - stamp.width) / 2), round((y0 + y1 - stamp.height) / 2)
        self._image.paste(color, (*position, position[0] + stamp.width, position[1] + stamp.height), stamp)
        return self

    def tomato(self, x: float, y: float, radius: float) -> Canvas:
        """A tomato with a highlight and five green leaves."""
        self.ellipse(x, y, radius * 1.08, radius, (206, 28, 16))
        self.ellipse(x - radius * 0.4, y - radius * 0.35, radius * 0.22, radius * 0.16, (245, 150, 130))
        for index in range(5):
            angle = math.pi * (0.1 + 0.2 * index) + math.pi
            tip = (x + radius * 0.75 * math.cos(angle), y - radius * 0.62 + radius * 0.45 * math.sin(angle + math.pi))
            side = radius * 0.16
            root_y = y - radius * 0.85
            self.polygon([(x - side, root_y), tip, (x + side, root_y + side)], (46, 120, 34))
        return self.box((x - radius * 0.08, y - radius * 1.25, x + radius * 0.08, y - radius * 0.8), (46, 120, 34))

    def picture(self, width: int, height: int) -> Image.Image:
        """The finished picture in pixels."""
        return self._image.resize((width, height), Image.Resampling.LANCZOS)


def sheet(faces: Mapping[str, Canvas]) -> Image.Image:
    """The pictures of a box's faces, stretched into the cells where `meshes.cell` looks for them."""
    whole = Image.new("RGB", (SHEET_COLUMNS * CELL_PIXELS, SHEET_ROWS * CELL_PIXELS))
    for index, face in enumerate(FACES):
        row, column = divmod(index, SHEET_COLUMNS)
        whole.paste(faces[face].picture(CELL_PIXELS, CELL_PIXELS), (column * CELL_PIXELS, row * CELL_PIXELS))
    return whole


def wrapped(canvas: Canvas) -> Image.Image:
    """The picture that goes around a can or bottle, its upper and lower edge padded as `meshes.loft` expects."""
    width, height = _WRAP_PIXELS
    margin = round(WRAP_MARGIN * height)
    pixels = np.asarray(canvas.picture(width, height - 2 * margin))
    return Image.fromarray(np.pad(pixels, ((margin, margin), (0, 0), (0, 0)), mode="edge"))
