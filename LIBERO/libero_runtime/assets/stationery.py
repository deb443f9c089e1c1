"""Things of the desk: the caddy with its compartments, and a book."""

from __future__ import annotations

from libero_runtime.assets.facts import ObjectFacts, SiteFacts
from libero_runtime.assets.shapes import Paint, Parts, Vector, Visual, box, quat_to_matrix

# Heights above the caddy's origin. The side compartments stay below the middle one's back; its front is low.
_SIDE_TOP = 0.1180
_FRONT_TOP = 0.0800
_FINGER_GAP_X = -0.0290  # above the side walls, the dividers reach from the back only to here


def _inside(site: SiteFacts) -> tuple[Vector, Vector]:
    """The corners of a region's box in its body's frame; the measured ones are turned by right angles only."""
    half = abs(quat_to_matrix(site.quat) @ site.size)
    return site.pos - half, site.pos + half


def desk_caddy(facts: ObjectFacts) -> dict[str, Parts]:
    """A wooden organiser: open boxes left (+y) and right, between them a low front and a high back compartment."""
    body = facts.body("object")
    (x0, y0, z0), (x1, y1, z1) = body.bounds
    inside = {site.name.split("_")[0]: _inside(site) for site in body.sites}
    (right_low, right_high), (left_low, left_high) = inside["right"], inside["left"]
    (front_low, front_high), (back_low, back_high) = inside["front"], inside["back"]
    floor = float(front_low[2])
    boards = [
        box((x0, y0, z0), (x1, y1, floor)),
        box((back_low[0], back_low[1], floor), (back_high[0], back_high[1], back_low[2])),
        # between front and back
        box((front_high[0], back_low[1], floor), (back_low[0], back_high[1], _FRONT_TOP)),
        box((x0, back_low[1], floor), (front_low[0], back_high[1], _FRONT_TOP)),
        box((back_high[0], back_low[1], floor), (x1, back_high[1], z1)),
    ]
    for outer, inner, divider in (
        ((y0, right_low[1]), (right_low[1], right_high[1]), (right_high[1], back_low[1])),
        ((left_high[1], y1), (left_low[1], left_high[1]), (back_high[1], left_low[1])),
    ):
        boards += [
            box((x0, outer[0], floor), (x1, outer[1], _SIDE_TOP)),
            box((x0, inner[0], floor), (right_low[0], inner[1], _SIDE_TOP)),
            box((right_high[0], inner[0], floor), (x1, inner[1], _SIDE_TOP)),
            box((x0, divider[0], floor), (x1, divider[1], _SIDE_TOP)),
            box((_FINGER_GAP_X, divider[0], _SIDE_TOP), (x1, divider[1], z1)),
        ]
    wood = Paint((0.88, 0.64, 0.40), texture="wood_dark", emission=0.25)
    dark = Paint((0.50, 0.37, 0.26), texture="wood_dark", emission=0.15)
    visuals = [Visual(board, wood) for board in boards]
    for low, high in inside.values():
        visuals.append(Visual(box((low[0], low[1], low[2]), (high[0], high[1], low[2] + 0.0006)), dark))
    return {"object": Parts(tuple(boards), tuple(visuals))}


def black_book(facts: ObjectFacts) -> dict[str, Parts]:
    """A book that stands upright: black covers, its spine at -y, white pages within."""
    body = facts.body("object")
    (x0, y0, z0), (x1, y1, z1) = body.bounds
    cover, inset = 0.0022, 0.0030
    black = Paint((0.055, 0.055, 0.065), specular=0.4, shininess=0.4)
    pages = Paint((0.92, 0.90, 0.84))
    gold = Paint((0.80, 0.66, 0.30), specular=0.6, shininess=0.6)
    visuals = [
        Visual(box((x0, y0, z0), (x0 + cover, y1, z1)), black),
        Visual(box((x1 - cover, y0, z0), (x1, y1, z1)), black),
        Visual(box((x0, y0, z0), (x1, y0 + cover, z1)), black),
        Visual(box((x0 + cover, y0 + cover, z0 + inset), (x1 - cover, y1 - inset, z1 - inset)), pages),
        Visual(box((x0 + 0.006, y0 - 0.0003, z1 - 0.030), (x1 - 0.006, y0 + 0.001, z1 - 0.026)), gold),
        Visual(box((x0 + 0.006, y0 - 0.0003, z0 + 0.020), (x1 - 0.006, y0 + 0.001, z0 + 0.024)), gold),
    ]
    middle = float(body.center[1])
    for side, outward in ((x0, -1), (x1, 1)):
        near, far = sorted((side + outward * 0.0003, side - outward * 0.001))
        visuals += [
            Visual(box((near, middle - 0.034, z1 - 0.040), (far, middle + 0.034, z1 - 0.034)), gold),
            Visual(box((near, middle - 0.024, z1 - 0.052), (far, middle + 0.024, z1 - 0.048)), gold),
        ]
    return {"object": Parts((box((x0, y0, z0), (x1, y1, z1)),), tuple(visuals))}
