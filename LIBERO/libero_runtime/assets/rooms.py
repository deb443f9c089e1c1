"""What furnishes the scenes besides the measured geometry: seen in the background, never touched.

The camera of most policies looks across the table towards -x: the wall at x = -2, behind the robot, is what shows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import cycle, pairwise

import numpy as np

from libero_runtime.assets.shapes import Paint, Primitive, Visual, bounding_box, box, capsule, cylinder

WOOD = "table_wood"  # paint with this texture wears the wood of the scene's table

_TABLE = Paint((1.0, 1.0, 1.0), texture=WOOD)
_SHADED = Paint((0.62, 0.62, 0.62), texture=WOOD)
_REAR_WALL_X = -1.985
_LEAVES = (  # x, y and z of a leaf's middle from the pot, half length
    (0.0, 0.0, 0.62, 0.22), (0.07, 0.06, 0.55, 0.15), (-0.05, 0.09, 0.56, 0.17), (0.05, -0.09, 0.58, 0.18),
    (-0.07, -0.05, 0.54, 0.15), (0.11, -0.02, 0.50, 0.12),
)  # fmt: skip
_BOOKS = ((0.45, 0.13, 0.12), (0.15, 0.24, 0.40), (0.72, 0.62, 0.40), (0.18, 0.33, 0.22), (0.32, 0.20, 0.34),
          (0.75, 0.72, 0.66), (0.55, 0.33, 0.16))  # fmt: skip


def nothing(measured: Sequence[Primitive] = ()) -> tuple[Visual, ...]:
    """A bare room, or a table whose looks were measured."""
    del measured
    return ()


def desk(measured: Sequence[Primitive]) -> tuple[Visual, ...]:
    """A desk looks as it was measured: a thick top, legs and stretchers."""
    top, *frame = measured
    return Visual(top, _TABLE), *(Visual(part, _SHADED) for part in frame)


def coffee_table(measured: Sequence[Primitive]) -> tuple[Visual, ...]:
    """One top over the measured slabs, which overlap, and a darker block below it."""
    *slabs, block = measured
    low, high = bounding_box(slabs)
    return Visual(box(low, high), _TABLE), Visual(block, _SHADED)


def _row(
    paints: Sequence[Paint], edges: Sequence[float], *, x: tuple[float, float], z: float, heights: Sequence[float]
) -> Iterator[Visual]:
    """Boxes side by side along y, standing at height z."""
    for (start, stop), paint, height in zip(pairwise(edges), cycle(paints), cycle(heights), strict=False):
        yield Visual(box((x[0], start + 0.002, z), (x[1], stop - 0.002, z + height)), paint)


def kitchen() -> tuple[Visual, ...]:
    """A counter with cabinets along the wall, an oven with a pot on it, and a fridge."""
    white = Paint((0.80, 0.78, 0.73), emission=0.35)
    stone = Paint((0.30, 0.30, 0.32), emission=0.2, specular=0.4, shininess=0.5)
    steel = Paint((0.62, 0.63, 0.65), emission=0.35, specular=0.6, shininess=0.6)
    black = Paint((0.08, 0.08, 0.09), specular=0.5, shininess=0.5)
    red = Paint((0.60, 0.13, 0.10), specular=0.4, shininess=0.5)
    back, front = _REAR_WALL_X, -1.42
    parts = [
        Visual(box((back, -2.9, 0.0), (front, 2.9, 0.10)), black),
        Visual(box((back, -2.9, 0.10), (front, 2.9, 0.86)), white),
        Visual(box((back, -2.9, 0.86), (front + 0.02, 2.9, 0.90)), stone),
        Visual(box((back, -1.25, 0.05), (front + 0.06, -0.50, 1.75)), steel),
        Visual(box((front + 0.06, -0.56, 0.75), (front + 0.09, -0.53, 1.25)), black),
        Visual(box((front, 0.40, 0.12), (front + 0.015, 1.00, 0.84)), steel),
        Visual(box((front + 0.015, 0.46, 0.22), (front + 0.020, 0.94, 0.62)), black),
        Visual(capsule((front + 0.04, 0.70, 0.70), 0.010, 0.22, axis="y"), steel),
        Visual(cylinder((front - 0.28, 0.70, 0.97), 0.11, 0.07), red),
        Visual(cylinder((front - 0.28, 0.70, 1.045), 0.112, 0.006), steel),
    ]
    edges = [-0.48, 0.0, 0.38]
    for start, stop in (*pairwise(edges), (1.02, 1.5), (1.5, 1.98)):
        door = box((front, start + 0.01, 0.13), (front + 0.015, stop - 0.01, 0.84))
        knob = capsule((front + 0.03, stop - 0.06, 0.66), 0.006, 0.05)
        parts += [Visual(door, Paint((0.74, 0.71, 0.65), emission=0.35)), Visual(knob, steel)]
    return tuple(parts)


def living_room() -> tuple[Visual, ...]:
    """A sofa with cushions on a rug, and a picture above it."""
    fabric = Paint((0.36, 0.42, 0.48), emission=0.25, specular=0.0)
    seat = Paint((0.42, 0.48, 0.54), emission=0.25, specular=0.0)
    cushion = Paint((0.78, 0.58, 0.25), emission=0.3, specular=0.0)
    back, front = _REAR_WALL_X, -1.10
    parts = [
        Visual(box((-1.6, -1.5, 0.0), (1.2, 1.5, 0.006)), Paint((0.66, 0.60, 0.52), specular=0.0)),
        Visual(box((-1.5, -1.4, 0.0), (1.1, 1.4, 0.008)), Paint((0.52, 0.30, 0.26), specular=0.0)),
        Visual(box((back, -1.15, 0.06), (front, 1.15, 0.30)), fabric),
        Visual(box((back, -1.15, 0.30), (back + 0.25, 1.15, 0.85)), fabric),
        Visual(box((-1.98, -0.55, 1.35), (-1.96, 0.55, 1.95)), Paint((0.20, 0.16, 0.12))),
        Visual(box((-1.96, -0.50, 1.40), (-1.955, 0.50, 1.90)), Paint((0.55, 0.66, 0.70))),
    ]
    for side in (-1, 1):
        arm = sorted((side * 1.15, side * 0.95))
        parts += [
            Visual(box((back, arm[0], 0.06), (front, arm[1], 0.58)), fabric),
            Visual(
                box(
                    (back + 0.25, min(0.0, side * 0.94) + 0.005, 0.30),
                    (front + 0.02, max(0.0, side * 0.94) - 0.005, 0.44),
                ),
                seat,
            ),
            Visual(box((back + 0.26, side * 0.70 - 0.20, 0.45), (back + 0.38, side * 0.70 + 0.20, 0.80)), cushion),
        ]
    return tuple(parts)


def study() -> tuple[Visual, ...]:
    """A bookshelf, a floor lamp, a plant and a painting along the wall."""
    wood, shelf = (Paint(rgb, emission=0.25) for rgb in ((0.40, 0.25, 0.15), (0.50, 0.33, 0.20)))
    back, front = _REAR_WALL_X, -1.68
    low_y, high_y = 0.15, 1.25
    parts = [
        Visual(box((back, low_y, 0.0), (back + 0.02, high_y, 2.1)), wood),
        *(Visual(box((back, y - 0.02, 0.0), (front, y + 0.02, 2.1)), wood) for y in (low_y, high_y)),
        *(Visual(box((back, low_y, z), (front, high_y, z + 0.03)), shelf) for z in np.arange(0.05, 2.1, 0.34)),
    ]
    generator = np.random.default_rng(5)
    covers = [Paint(rgb, emission=0.2, specular=0.1) for rgb in _BOOKS]
    for z in (0.42, 0.76, 1.10, 1.44):
        edges = (low_y + 0.03 + np.cumsum(generator.uniform(0.035, 0.075, size=16))).tolist()
        heights = generator.uniform(0.19, 0.28, size=5).tolist()
        start = int(generator.integers(len(covers)))
        row = _row(
            covers[start:] + covers[:start],
            [edge for edge in edges if edge < high_y - 0.03],
            x=(back + 0.02, front - 0.04),
            z=z,
            heights=heights,
        )
        parts += row
    green = Paint((0.20, 0.42, 0.18), emission=0.25, specular=0.1)
    parts.append(Visual(cylinder((-1.70, -0.95, 0.16), 0.15, 0.16), Paint((0.62, 0.34, 0.22))))
    for x, y, z, length in _LEAVES:
        parts.append(Visual(capsule((-1.70 + x, -0.95 + y, z), 0.050, length), green))
    steel = Paint((0.20, 0.20, 0.21), specular=0.5)
    parts += [
        Visual(cylinder((-1.72, -0.42, 0.015), 0.13, 0.015), steel),
        Visual(cylinder((-1.72, -0.42, 0.75), 0.012, 0.75), steel),
        Visual(cylinder((-1.72, -0.42, 1.58), 0.16, 0.13), Paint((0.92, 0.86, 0.70), emission=0.5)),
        Visual(box((-1.98, -1.30, 1.15), (-1.96, -0.65, 1.75)), Paint((0.25, 0.18, 0.10))),
        Visual(box((-1.96, -1.25, 1.20), (-1.955, -0.70, 1.70)), Paint((0.62, 0.50, 0.34))),
    ]
    return tuple(parts)
