"""Meshes that carry a printed picture: flat patches cut from one sheet, and lofts with a label wrapped around.

Texture coordinates run from the lower left corner of the picture, (0, 0), to the upper right one, (1, 1).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from libero_runtime.assets.shapes import Mesh, Point, Vector

Window = tuple[float, float, float, float]  # left, bottom, right, top in texture coordinates

FACES = ("front", "right", "back", "left", "top", "bottom")
SHEET_COLUMNS, SHEET_ROWS = 3, 2
WRAP_MARGIN = 1 / 32  # a wrapped picture's upper and lower edge are padded by this much, for the same reason as:
_BLEED = 0.004  # stay this far off a cell's border, where filtering mixes in its neighbour


def cell(face: str) -> Window:
    """Where the picture of a box's face lies on its sheet: front, right, back over left, top, bottom."""
    row, column = divmod(FACES.index(face), SHEET_COLUMNS)
    left, top = column / SHEET_COLUMNS, 1 - row / SHEET_ROWS
    return left + _BLEED, top - 1 / SHEET_ROWS + _BLEED, left + 1 / SHEET_COLUMNS - _BLEED, top - _BLEED


def swatch(face: str) -> Window:
    """The lower left corner of a face's picture, as a plain colour."""
    left, bottom, _, _ = cell(face)
    return left, bottom, left + _BLEED, bottom + _BLEED


@dataclass(frozen=True)
class Patch:
    """A flat quadrilateral seen from outside: its lower left corner, its lower side, its left side, and its picture.

    `taper` takes this share off the upper side at either end: 0.5 makes a triangle.
    """

    corner: Vector
    right: Vector
    up: Vector
    window: Window
    taper: float = 0.0


def box_patches(low: Point, high: Point, *, front: Point, up: Point, windows: Mapping[str, Window]) -> list[Patch]:
    """The named faces of a box whose front looks along `front`; top and bottom read from the front."""
    low_array, high_array = np.asarray(low, dtype=np.float64), np.asarray(high, dtype=np.float64)
    middle, half = (low_array + high_array) / 2, (high_array - low_array) / 2
    forward, upward = np.asarray(front, dtype=np.float64), np.asarray(up, dtype=np.float64)
    rightward = np.cross(upward, forward)
    sides = {
        "front": (forward, upward),
        "right": (rightward, upward),
        "back": (-forward, upward),
        "left": (-rightward, upward),
        "top": (upward, -forward),
        "bottom": (-upward, forward),
    }
    patches = []
    for face, window in windows.items():
        normal, vertical = sides[face]
        horizontal = np.cross(vertical, normal)
        corner = middle + half * (normal - horizontal - vertical)
        patches.append(Patch(corner, 2 * half * horizontal, 2 * half * vertical, window))
    return patches


def patchwork(name: str, patches: Sequence[Patch]) -> Mesh:
    """One mesh of all patches; neighbours share no vertices, so every edge is sharp."""
    vertices: list[Vector] = []
    uvs: list[tuple[float, float]] = []
    faces: list[tuple[int, int, int]] = []
    for patch in patches:
        left, bottom, right, top = patch.window
        first = len(vertices)
        cut = patch.taper
        vertices += [
            patch.corner,
            patch.corner + patch.right,
            patch.corner + patch.right * (1 - cut) + patch.up,
            patch.corner + patch.right * cut + patch.up,
        ]
        inset = cut * (right - left)
        uvs += [(left, bottom), (right, bottom), (right - inset, top), (left + inset, top)]
        faces.append((first, first + 1, first + 2))
        if cut < 0.5:
            faces.append((first, first + 2, first + 3))
    return Mesh(name, np.array(vertices), np.array(faces, dtype=np.int64), np.array(uvs))


@dataclass(frozen=True)
class Section:
    """A cut through a loft: half extents to the side and to the front; `power` 2 is round, more is squarer."""

    height: float
    side: float
    front: float
    power: float = 2.0


def _outline(section: Section, angles: Vector) -> Vector:
    """(N, 2) side and front coordinates of a superellipse in polar directions; angle 0 is the front."""
    directions = np.stack([np.sin(angles), np.cos(angles)], axis=1)
    if section.side == 0:
        return np.zeros_like(directions)
    scaled = np.abs(directions) / np.array([section.side, section.front])
    radii: Vector = (scaled**section.power).sum(axis=1, keepdims=True) ** (-1 / section.power)
    return directions * radii


def _even_angles(section: Section, num_sides: int) -> Vector:
    """Angles from back to back around the front whose points are equally far apart along the outline."""
    dense = np.linspace(-math.pi, math.pi, 721)
    steps = np.linalg.norm(np.diff(_outline(section, dense), axis=0), axis=1)
    length = np.concatenate([[0.0], np.cumsum(steps)])
    return np.interp(np.linspace(0.0, length[-1], num_sides + 1), length, dense)


def loft(
    name: str,
    sections: Sequence[Section],
    *,
    center: Point,
    front: Point,
    up: Point,
    window: Window = (0.0, WRAP_MARGIN, 1.0, 1 - WRAP_MARGIN),
    num_sides: int = 32,
) -> Mesh:
    """A skin over sections from the bottom upwards, heights counted from `center` along `up`.

    The window of the picture goes around once, its middle in front, from the lowest to the highest section; a window
    larger than the picture repeats it. A section of no extent closes an end.
    """
    upward, forward = np.asarray(up, dtype=np.float64), np.asarray(front, dtype=np.float64)
    rightward = np.cross(upward, forward)
    origin = np.asarray(center, dtype=np.float64)
    angles = _even_angles(max(sections, key=lambda section: section.side), num_sides)
    heights = np.array([section.height for section in sections])
    levels = np.interp(heights, [heights.min(), heights.max()], [window[1], window[3]])
    around = np.linspace(window[0], window[2], num_sides + 1)
    vertices, uvs, faces = [], [], []
    for section, level in zip(sections, levels, strict=True):
        outline = _outline(section, angles)
        vertices.append(origin + section.height * upward + outline[:, :1] * rightward + outline[:, 1:] * forward)
        uvs.append(np.stack([around, np.full(num_sides + 1, level)], axis=1))
    row = num_sides + 1
    for index, (below, above) in enumerate(pairwise(sections)):
        for side in range(num_sides):
            a, b = index * row + side, index * row + side + 1
            c, d = b + row, a + row
            if below.side > 0:
                faces.append((a, b, c))
            if above.side > 0:
                faces.append((a, c, d))
    return Mesh(name, np.concatenate(vertices), np.array(faces, dtype=np.int64), np.concatenate(uvs))
