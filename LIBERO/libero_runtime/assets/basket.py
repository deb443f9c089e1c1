"""The woven basket that groceries are put in: a floor and four walls that lean outwards."""

from __future__ import annotations

import numpy as np

from libero_runtime.assets.facts import BodyFacts, ObjectFacts
from libero_runtime.assets.shapes import Paint, Parts, Primitive, Visual, board, box

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


def basket(facts: ObjectFacts) -> dict[str, Parts]:
    """A square wicker basket, open at the top; 14 cm deep inside."""
    body = facts.body("object")
    low, high = body.bounds
    inset = np.array([_LEAN, _LEAN, 0.0])
    floor = box(low + inset, np.array([*(high - inset)[:2], _FLOOR_TOP]))
    collision = (floor, *_walls(body))
    straw = Paint((0.72, 0.53, 0.32))
    return {"object": Parts(collision, tuple(Visual(shape, straw) for shape in collision))}
