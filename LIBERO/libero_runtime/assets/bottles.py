"""Cans and bottles of groceries: stacks of boxes to touch, so that they stand and do not roll, round to look at."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from libero_runtime.assets.facts import BodyFacts, ObjectFacts
from libero_runtime.assets.meshes import Section, loft
from libero_runtime.assets.shapes import Paint, Parts, Point, Primitive, Vector, Visual, box

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

    Each step is (upper end from the middle, share of the bounding box's extents across the axis); the last one ends at
    the top whatever it says.
    """
    boxes = []
    start = -float(body.half[axis])
    for index, (end, share) in enumerate(steps):
        lower, upper = body.center - body.half * share, body.center + body.half * share
        end = end if index < len(steps) - 1 else float(body.half[axis])
        lower[axis], upper[axis] = body.center[axis] + start, body.center[axis] + end
        boxes.append(box(lower, upper))
        start = end
    return tuple(boxes)


def _printed(label: str, *, shininess: float) -> Paint:
    return Paint((1.0, 1.0, 1.0), texture=label, printed=True, emission=0.25, specular=shininess, shininess=shininess)


def _can(facts: ObjectFacts, label: str) -> dict[str, Parts]:
    """A can that stands along y: the front of its label looks along -x, the lid lies a little deeper than the rim."""
    body = facts.body("object")
    radius, half = float(body.half[[0, 2]].mean()) + 0.0006, float(body.half[1])
    outline = [(-half, 0.0), (-half, 0.96), (0.0014 - half, 1.0), (half - 0.0014, 1.0), (half, 0.97), (half, 0.92),
               (half - 0.0018, 0.90), (half - 0.0018, 0.0)]  # fmt: skip
    sections = [Section(height, radius * share, radius * share) for height, share in outline]
    skin = loft("can", sections, center=body.center, front=(-1, 0, 0), up=(0, 1, 0))
    collision = octagon(*body.bounds, axis=1)
    return {"object": Parts(collision, (Visual(skin, _printed(label, shininess=0.3)),))}


@dataclass(frozen=True)
class Shape:
    """The outline of a bottle. Heights from its middle; `steps` are the boxes to touch, see `stack`.

    `belly` are (height, share) pairs up to the shoulder: shares of the bounding box's width and depth. The neck and
    the cap are round.
    """

    steps: tuple[tuple[float, float], ...]
    belly: tuple[tuple[float, float], ...]
    neck: float  # radius
    neck_start: float
    cap: float  # radius
    cap_start: float

    def sections(self, body: BodyFacts, *, axis: int, width_axis: int, depth_axis: int) -> list[Section]:
        width, depth, half = (float(body.half[index]) for index in (width_axis, depth_axis, axis))
        belly = [Section(height, width * share, depth * share, 3.2) for height, share in self.belly]
        rounds = [
            (self.neck_start, self.neck), (self.cap_start, self.neck), (self.cap_start, self.cap),
            (half - 0.0020, self.cap * 0.96), (half, self.cap * 0.85), (half, 0.0),
        ]  # fmt: skip
        foot = [Section(-half, 0.0, 0.0, 3.2), Section(-half, width * 0.93, depth * 0.90, 3.2)]
        return [*foot, Section(0.0025 - half, width, depth, 3.2), *belly, *(Section(h, r, r) for h, r in rounds)]


def _bottle(facts: ObjectFacts, shape: Shape, label: str, *, axis: int, front: Point) -> dict[str, Parts]:
    body = facts.body("object")
    depth_axis = int(np.argmax(np.abs(front)))
    sections = shape.sections(body, axis=axis, width_axis=3 - axis - depth_axis, depth_axis=depth_axis)
    skin = loft("bottle", sections, center=body.center, front=front, up=np.eye(3)[axis])
    return {"object": Parts(stack(body, axis, shape.steps), (Visual(skin, _printed(label, shininess=0.5)),))}


def alphabet_soup(facts: ObjectFacts) -> dict[str, Parts]:
    """A soup can with a red and white label."""
    return _can(facts, "alphabet_soup_label")


def tomato_sauce(facts: ObjectFacts) -> dict[str, Parts]:
    """A can with tomatoes on a cream label between a green and a dark red band."""
    return _can(facts, "tomato_sauce_label")


def ketchup(facts: ObjectFacts) -> dict[str, Parts]:
    """A red squeeze bottle with a white cap."""
    shape = Shape(
        steps=((0.026, 1.0), (0.045, 0.80), (math.inf, 0.52)),
        belly=((-0.030, 0.97), (0.018, 1.0), (0.030, 0.90), (0.039, 0.68)),
        neck=0.0125,
        neck_start=0.0428,
        cap=0.0150,
        cap_start=0.0430,
    )
    return _bottle(facts, shape, "ketchup_label", axis=1, front=(0, 0, 1))


def salad_dressing(facts: ObjectFacts) -> dict[str, Parts]:
    """A bottle of pale green dressing with a long neck and a green cap."""
    shape = Shape(
        steps=((0.012, 1.0), (0.035, 0.75), (math.inf, 0.50)),
        belly=((0.004, 1.0), (0.016, 0.92), (0.028, 0.70)),
        neck=0.0110,
        neck_start=0.0400,
        cap=0.0130,
        cap_start=0.0470,
    )
    return _bottle(facts, shape, "salad_dressing_label", axis=1, front=(0, 0, 1))


def bbq_sauce(facts: ObjectFacts) -> dict[str, Parts]:
    """A small bottle of dark sauce with flames on its black label."""
    shape = Shape(
        steps=((0.015, 1.0), (0.030, 0.75), (math.inf, 0.52)),
        belly=((0.010, 1.0), (0.018, 0.90), (0.025, 0.68)),
        neck=0.0095,
        neck_start=0.0310,
        cap=0.0112,
        cap_start=0.0335,
    )
    return _bottle(facts, shape, "bbq_sauce_label", axis=2, front=(0, -1, 0))
