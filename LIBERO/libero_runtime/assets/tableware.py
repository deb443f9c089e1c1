"""Bowls, plates and other hollow round things: slanted walls of boxes to touch, a turned mesh to look at."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from libero_runtime.assets.facts import BodyFacts, ObjectFacts
from libero_runtime.assets.shapes import Mesh, Paint, Parts, Primitive, Profile, Visual, box, lathe, wall_ring

NUM_WALL_BOXES = 16


def round_wall(
    outer: Profile,
    thickness: float,
    body: BodyFacts,
    *,
    num_boxes: int = NUM_WALL_BOXES,
    center: tuple[float, float] | None = None,
    top: float | None = None,
) -> tuple[Primitive, ...]:
    """Rings of boxes along the outer polyline, around `center` (default: the middle of the bounding box).

    The last ring is lowered so that the inner edge of its slanted top ends at `top` (default: that of the box).
    """
    top = float(body.bounds[1][2]) if top is None else top
    x, y = body.center[:2] if center is None else center
    walls: list[Primitive] = []
    for index, (lower, upper) in enumerate(pairwise(outer)):
        if index == len(outer) - 2:
            run = (upper[0] - lower[0]) * math.cos(math.pi / num_boxes)
            height = top - lower[1]
            # inner edge = outer edge + thickness * run / length; one step of the fixed point is exact to microns
            raised = thickness * run / math.hypot(run, height)
            raised = thickness * run / math.hypot(run, height - raised)
            upper = (upper[0], top - raised)
        walls += wall_ring(lower, upper, thickness, center=(x, y, 0.0), num_boxes=num_boxes)
    return tuple(walls)


def floor_box(body: BodyFacts, radius: float, top: float, *, center: tuple[float, float] | None = None) -> Primitive:
    """A square floor inside a round wall: box against box rests on four contacts, where cylinders would rock."""
    half = radius / math.sqrt(2)
    x, y = body.center[:2] if center is None else center
    return box((x - half, y - half, body.bounds[0][2]), (x + half, y + half, top))


def _turned(name: str, body: BodyFacts, profile: Profile) -> Mesh:
    return lathe(name, profile, center=(float(body.center[0]), float(body.center[1]), 0.0))


def _parts(collision: Sequence[Primitive], visuals: Sequence[Visual]) -> dict[str, Parts]:
    return {"object": Parts(tuple(collision), tuple(visuals))}


def bowl(facts: ObjectFacts) -> dict[str, Parts]:
    """The akita black bowl: steep wall, 2.5 mm thick, that one finger reaches into."""
    body = facts.body("object")
    bottom, top = float(body.bounds[0][2]), float(body.bounds[1][2])
    rim = float(max(body.half[:2]))
    # The published states of one task put bowl and plate so close that their lower edges touch: keep them slim there.
    outer = [(0.0290, bottom + 0.0006), (0.0408, 0.0145), (rim, top)]
    collision = [floor_box(body, 0.0330, 0.0068), *round_wall(outer, 0.0025, body)]
    black = Paint((0.075, 0.075, 0.085), specular=0.6, shininess=0.6)
    profile = [
        (0.0, bottom), (0.0300, bottom), (0.0350, 0.0050), (0.0427, 0.0142), (0.0485, 0.0340), (rim, top - 0.0008),
        (rim - 0.0010, top), (rim - 0.0024, top - 0.0006), (0.0460, 0.0340), (0.0405, 0.0150), (0.0330, 0.0090),
        (0.0, 0.0072),
    ]  # fmt: skip
    rim_line = [(rim + 0.0003, top - 0.0030), (rim + 0.0003, top + 0.0004), (rim - 0.0027, top + 0.0004),
                (rim - 0.0027, top - 0.0030), (rim + 0.0003, top - 0.0030)]  # fmt: skip
    grey = Paint((0.30, 0.30, 0.32), specular=0.6, shininess=0.6)
    return _parts(
        collision, [Visual(_turned("bowl", body, profile), black), Visual(_turned("rim", body, rim_line), grey)]
    )


def plate(facts: ObjectFacts) -> dict[str, Parts]:
    """A white plate with a red rim: a foot, a flat bottom and a shallow slanted border."""
    body = facts.body("object")
    bottom, top = float(body.bounds[0][2]), float(body.bounds[1][2])
    rim = float(max(body.half[:2]))
    outer = [(0.0450, 0.0010), (rim - 0.0005, top)]
    collision = [floor_box(body, 0.0480, 0.0045), *round_wall(outer, 0.0050, body)]
    white = Paint((0.93, 0.92, 0.90), specular=0.4, shininess=0.5)
    red = Paint((0.62, 0.10, 0.10), specular=0.4, shininess=0.5)
    floor_top, inner_radius = 0.0048, 0.0380
    slope = (top - floor_top) / (rim - 0.0016 - inner_radius)
    profile = [(0.0, bottom), (0.0360, bottom), (0.0385, 0.0), (rim - 0.0005, top - 0.0030), (rim, top - 0.0012),
               (rim - 0.0016, top), (inner_radius, floor_top), (0.0, floor_top)]  # fmt: skip

    def band(name: str, start: float, stop: float) -> Mesh:
        """A closed ring that stands 0.4 mm proud of the border between two radii."""
        low, high = (floor_top + slope * (radius - inner_radius) for radius in (start, stop))
        outline = [(stop, high - 0.001), (stop, high + 0.0004), (start, low + 0.0004), (start, low - 0.001)]
        return _turned(name, body, [*outline, outline[0]])

    visuals = [
        Visual(_turned("plate", body, profile), white),
        Visual(band("rim", 0.0590, rim - 0.0016), red),
        Visual(band("line", 0.0500, 0.0518), red),
    ]
    return _parts(collision, visuals)


def ramekin(facts: ObjectFacts) -> dict[str, Parts]:
    """A small white baking dish with straight ribbed walls and a glazed brown rim."""
    body = facts.body("object")
    bottom, top = float(body.bounds[0][2]), float(body.bounds[1][2])
    rim = float(max(body.half[:2]))
    outer = [(0.0392, bottom), (rim, top)]
    collision = [floor_box(body, 0.0400, 0.0066), *round_wall(outer, 0.0048, body)]
    white = Paint((0.95, 0.94, 0.90), specular=0.5, shininess=0.6)
    brown = Paint((0.60, 0.42, 0.26), specular=0.5, shininess=0.6)
    profile = [(0.0, bottom), (0.0385, bottom), (0.0395, 0.0030), (rim, top), (rim - 0.0055, top), (0.0345, 0.0075),
               (0.0, 0.0070)]  # fmt: skip
    edge = [(rim + 0.0004, top - 0.0035), (rim + 0.0004, top + 0.0005), (rim - 0.0058, top + 0.0005),
            (rim - 0.0058, top - 0.0035), (rim + 0.0004, top - 0.0035)]  # fmt: skip
    return _parts(collision, [Visual(_turned("dish", body, profile), white), Visual(_turned("rim", body, edge), brown)])
