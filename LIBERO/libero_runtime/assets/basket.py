"""The woven basket that groceries are put in: a floor and four walls that lean outwards."""

from __future__ import annotations

import numpy as np

from libero_runtime.assets.facts import BodyFacts, ObjectFacts
from libero_runtime.assets.meshes import Section, box_patches, loft, patchwork
from libero_runtime.assets.shapes import Mesh, Paint, Parts, Primitive, Vector, Visual, board, box

_FLOOR_TOP = 0.0170  # the facts find material on the axis up to here
_LEAN = 0.0050  # the outer side is this much further out at the top than at the bottom
_THICKNESS = {"x": 0.0080, "y": 0.0055}  # of the walls across each axis: they leave the measured inside free


def _walls(body: BodyFacts) -> list[Primitive]:
    """Four boards whose outer upper edges lie on the bounding box."""
    low, high = body.bounds
    walls = []
    for across, along in ((0, 1), (1, 0)):
        thickness = _THICKNESS["xy"[across]]
        # The upper side of a board that leans outwards falls off to the outside: lower its outer edge.
        top = float(high[2]) - thickness * _LEAN / float(high[2] - low[2])
        for bound, outwards in ((low, -1.0), (high, 1.0)):
            upper, lower = body.center.copy(), body.center.copy()
            upper[across], upper[2] = bound[across], top
            lower[across], lower[2] = bound[across] - outwards * _LEAN, low[2]
            half_width = float(body.half[along]) - _LEAN
            walls.append(
                board(lower, upper, axis="xy"[along], half_width=half_width, thickness=thickness, inside=body.center)
            )
    return walls


_SQUARE = 14.0  # power of the superellipse: straight sides, rounded corners
_CORNER = 0.0040  # how far they cut into the square
_WEAVE_M = 0.080  # one picture of wicker covers this much


def _skin(body: BodyFacts) -> Mesh:
    """Outside, over the rim, and down the inside to the floor."""
    width, depth, height = (float(value) for value in body.half)
    outer = [(-height, _LEAN), (height, 0.0)]
    inner = [(height, 0.0060), (_FLOOR_TOP - float(body.center[2]), 0.0060 + _LEAN)]
    sections = [Section(z, width - inset, depth - inset, _SQUARE) for z, inset in (*outer, *inner)]
    around = round(4 * (width + depth) / _WEAVE_M)
    window = (0.0, 0.0, float(around), 2 * height / _WEAVE_M)
    return loft("walls", sections, center=body.center, front=(0, 1, 0), up=(0, 0, 1), window=window, num_sides=64)


def _rim(body: BodyFacts) -> Mesh:
    """A thicker band around the top, a little proud of the walls."""
    width, depth, height = (float(value) for value in body.half)
    outline = [(height - 0.012, -0.0012), (height + 0.001, -0.0012), (height + 0.001, 0.0080), (height - 0.012, 0.0080)]
    sections = [Section(z, width - inset, depth - inset, _SQUARE) for z, inset in (*outline, outline[0])]
    window = (0.0, 0.0, 2.5 * round(4 * (width + depth) / _WEAVE_M), 0.5)
    return loft("rim", sections, center=body.center, front=(0, 1, 0), up=(0, 0, 1), window=window, num_sides=64)


def _floor(low: Vector, high: Vector) -> Mesh:
    """What is seen of the floor: its corners stay inside the rounded ones of the walls."""
    low, high = low + _CORNER * np.array([1, 1, 0]), high - _CORNER * np.array([1, 1, 0])
    repeats = (high - low) / _WEAVE_M
    window = (0.0, 0.0, float(repeats[1]), float(repeats[0]))
    faces = {"top": window, "bottom": window}
    return patchwork("floor", box_patches(low, high, front=(1, 0, 0), up=(0, 0, 1), windows=faces))


def basket(facts: ObjectFacts) -> dict[str, Parts]:
    """A square wicker basket, open at the top; 13 cm deep inside."""
    body = facts.body("object")
    low, high = body.bounds
    inset = np.array([_LEAN, _LEAN, 0.0])
    floor_low, floor_high = low + inset, np.array([*(high - inset)[:2], _FLOOR_TOP])
    straw = Paint((1.0, 0.96, 0.90), texture="wicker", printed=True, emission=0.25)
    dark = Paint((0.66, 0.56, 0.46), texture="wicker", printed=True, emission=0.25)
    visuals = (Visual(_skin(body), straw), Visual(_floor(floor_low, floor_high), straw), Visual(_rim(body), dark))
    return {"object": Parts((box(floor_low, floor_high), *_walls(body)), visuals)}
