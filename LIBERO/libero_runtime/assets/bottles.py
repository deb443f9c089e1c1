"""Cans and bottles of groceries: stacks of boxes to touch, so that they stand and do not roll, round to look at."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from libero_runtime.assets.facts import BodyFacts, ObjectFacts, Vector
from libero_runtime.assets.shapes import Paint, Parts, Primitive, Visual, box

_NUM_SIDES = 8
_RECESS = 0.0006  # only one box of a can touches what it stands on: four contacts instead of sixteen


def octagon(low: Vector, high: Vector, axis: int) -> tuple[Primitive, ...]:
    """A can along `axis` as boxes: four crossed ones give eight flat sides, a square one in them the two ends."""
    center, half = (low + high) / 2, (high - low) / 2
    apothem = float(np.delete(half, axis).mean())
    crossed = np.full(3, apothem)
    crossed[axis] = half[axis] - _RECESS
    crossed[(axis + 1) % 3] = apothem * math.tan(math.pi / _NUM_SIDES)
    sides = []
    for turn in range(_NUM_SIDES // 2):
        half_angle = math.pi * turn / _NUM_SIDES
        x, y, z = math.sin(half_angle) * np.eye(3)[axis]
        sides.append(Primitive("box", tuple(center), tuple(crossed), (math.cos(half_angle), x, y, z)))
    core = np.full(3, apothem / math.sqrt(2))
    core[axis] = half[axis]
    return (Primitive("box", tuple(center), tuple(core)), *sides)


def stack(body: BodyFacts, axis: int, steps: Sequence[tuple[float, float]]) -> tuple[Primitive, ...]:
    """Boxes on top of each other along `axis`, all around the middle of the bounding box.

    Each step is (upper end, share of the bounding box's extents across the axis); the last one ends at the top.
    """
    low, high = body.bounds
    boxes = []
    start = float(low[axis])
    for end, share in steps:
        lower, upper = body.center - body.half * share, body.center + body.half * share
        lower[axis], upper[axis] = start, end
        boxes.append(box(lower, upper))
        start = end
    if not math.isclose(start, float(high[axis])):
        raise ValueError(f"the steps of {body.name!r} end at {start}, its bounding box at {high[axis]}")
    return tuple(boxes)


def _can(facts: ObjectFacts, paint: Paint) -> dict[str, Parts]:
    collision = octagon(*facts.body("object").bounds, axis=1)
    return {"object": Parts(collision, tuple(Visual(shape, paint) for shape in collision))}


def _bottle(facts: ObjectFacts, axis: int, steps: Sequence[tuple[float, float]], paint: Paint) -> dict[str, Parts]:
    body = facts.body("object")
    collision = stack(body, axis, [*steps[:-1], (float(body.bounds[1][axis]), steps[-1][1])])
    return {"object": Parts(collision, tuple(Visual(shape, paint) for shape in collision))}


def alphabet_soup(facts: ObjectFacts) -> dict[str, Parts]:
    """A soup can with a red and white label."""
    return _can(facts, Paint((0.85, 0.12, 0.10)))


def tomato_sauce(facts: ObjectFacts) -> dict[str, Parts]:
    """A can of tomato sauce."""
    return _can(facts, Paint((0.55, 0.10, 0.08)))


def ketchup(facts: ObjectFacts) -> dict[str, Parts]:
    """A red squeeze bottle with a white cap."""
    return _bottle(facts, 1, [(0.0260, 1.0), (0.0450, 0.80), (math.inf, 0.52)], Paint((0.78, 0.07, 0.05)))


def salad_dressing(facts: ObjectFacts) -> dict[str, Parts]:
    """A bottle of green dressing with a long neck."""
    return _bottle(facts, 1, [(0.0120, 1.0), (0.0350, 0.75), (math.inf, 0.50)], Paint((0.75, 0.78, 0.50)))


def bbq_sauce(facts: ObjectFacts) -> dict[str, Parts]:
    """A dark bottle of barbecue sauce."""
    return _bottle(facts, 2, [(0.0150, 1.0), (0.0300, 0.75), (math.inf, 0.52)], Paint((0.20, 0.07, 0.05)))
