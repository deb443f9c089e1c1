"""Articulated fixtures: the cabinets with three drawers and the stove with its knob."""

from __future__ import annotations

from libero_runtime.assets.facts import BodyFacts, ObjectFacts
from libero_runtime.assets.shapes import Paint, Parts, Visual, box, capsule, cylinder

# A drawer must never touch the carcass: both are static neighbours, so MuJoCo does not filter their contacts.
_CLEARANCE = 0.0012
_WALL = 0.0070  # thickness of a drawer's floor and walls: bounding box minus the measured inside region
_FRONT_BACK_Y = -0.0643  # inner face of a drawer's front, where its inside region begins


def _drawer(body: BodyFacts, carcass: BodyFacts, wood: Paint, metal: Paint) -> Parts:
    """An open box with a front board and a bar handle; the handle is what reaches furthest towards -y."""
    (x0, y0, z0), (x1, y1, z1) = body.bounds
    front = float(carcass.bounds[0][1])
    middle_x, middle_z = (x0 + x1) / 2, (z0 + z1) / 2
    boards = [
        box((x0, front, z0), (x1, y1, z0 + _WALL)),
        box((x0, front, z0 + _WALL), (x1, _FRONT_BACK_Y, z1)),
        box((x0, y1 - _WALL, z0 + _WALL), (x1, y1, z1)),
        box((x0, _FRONT_BACK_Y, z0 + _WALL), (x0 + _WALL, y1 - _WALL, z1)),
        box((x1 - _WALL, _FRONT_BACK_Y, z0 + _WALL), (x1, y1 - _WALL, z1)),
    ]
    bar = box((middle_x - 0.040, y0, middle_z - 0.005), (middle_x + 0.040, y0 + 0.010, middle_z + 0.005))
    posts = [
        box((middle_x + x - 0.005, y0 + 0.010, middle_z - 0.005), (middle_x + x + 0.005, front, middle_z + 0.005))
        for x in (-0.035, 0.035)
    ]
    visuals = [Visual(board, wood) for board in boards] + [Visual(shape, metal) for shape in (bar, *posts)]
    return Parts((*boards, bar, *posts), tuple(visuals))


def cabinet(facts: ObjectFacts, *, wood: Paint, inside: Paint, metal: Paint) -> dict[str, Parts]:
    """Carcass (two sides, back, top, bottom) and three drawers that slide out towards -y."""
    carcass = facts.body("base")
    drawers = [facts.body(name) for name in ("cabinet_top", "cabinet_middle", "cabinet_bottom")]
    (x0, y0, z0), (x1, y1, z1) = carcass.bounds
    left, right = (float(drawers[0].bounds[side][0]) for side in (0, 1))
    furthest_back = float(drawers[0].bounds[1][1] + drawers[0].joints[0].range[1])
    boards = [
        box((x0, y0, z0), (left - _CLEARANCE, y1, z1)),
        box((right + _CLEARANCE, y0, z0), (x1, y1, z1)),
        box((left - _CLEARANCE, furthest_back + _CLEARANCE, z0), (right + _CLEARANCE, y1, z1)),
        box((left - _CLEARANCE, y0, drawers[0].bounds[1][2] + _CLEARANCE), (right + _CLEARANCE, y1, z1)),
        box((left - _CLEARANCE, y0, z0), (right + _CLEARANCE, y1, drawers[-1].bounds[0][2] - _CLEARANCE)),
    ]
    parts = {"base": Parts(tuple(boards), tuple(Visual(board, wood) for board in boards))}
    for drawer in drawers:
        parts[drawer.name] = _drawer(drawer, carcass, inside, metal)
    return parts


def wooden_cabinet(facts: ObjectFacts) -> dict[str, Parts]:
    """Dark brown wood with light drawers' fronts and steel handles."""
    return cabinet(
        facts,
        wood=Paint((0.52, 0.36, 0.25), texture="wood_dark"),
        inside=Paint((0.72, 0.50, 0.33), texture="wood_dark"),
        metal=Paint((0.72, 0.71, 0.68), specular=0.8, shininess=0.8),
    )


def white_cabinet(facts: ObjectFacts) -> dict[str, Parts]:
    """White lacquer with dark handles."""
    return cabinet(
        facts,
        wood=Paint((0.86, 0.86, 0.86)),
        inside=Paint((0.93, 0.93, 0.93)),
        metal=Paint((0.25, 0.25, 0.27), specular=0.8, shininess=0.8),
    )


def flat_stove(facts: ObjectFacts) -> dict[str, Parts]:
    """A flat portable stove: steel base, square burner with glowing-red rings' outlines, and a turning knob."""
    burner, button = facts.body("burner"), facts.body("button")
    (x0, y0, z0), (x1, y1, z1) = burner.bounds
    block_top = 0.0210  # the measured mass is that of a box of water up to here; a thin plate comes on top
    plate_half = 0.075
    block = box((x0, y0, z0), (x1, y1, block_top))
    plate = box((-plate_half, -plate_half, block_top), (plate_half, plate_half, z1))
    steel = Paint((0.42, 0.42, 0.43), specular=0.6, shininess=0.6)
    dark = Paint((0.13, 0.13, 0.14), specular=0.5, shininess=0.5)
    red = Paint((0.55, 0.12, 0.08), specular=0.3)
    discs = [(0.070, red), (0.062, dark), (0.045, red), (0.037, dark), (0.018, red)]
    rings = [
        Visual(cylinder((0.0, 0.0, z1 - 0.0006 + 0.0003 * index), radius, 0.0008), paint)
        for index, (radius, paint) in enumerate(discs)
    ]
    burner_visuals = [Visual(block, steel), Visual(plate, dark), *rings]

    (bx0, by0, bz0), (bx1, by1, bz1) = button.bounds
    cx, cy = (bx0 + bx1) / 2, (by0 + by1) / 2
    disc_top = 0.0170
    radius = float(max(button.half[:2]))
    disc = cylinder((cx, cy, (bz0 + disc_top) / 2), radius, (disc_top - bz0) / 2)
    grip = box((cx - 0.012, cy - 0.034, disc_top), (cx + 0.012, cy + 0.034, bz1))
    pointer = box((cx - 0.003, cy + 0.010, bz1 - 0.001), (cx + 0.003, cy + 0.034, bz1 + 0.0008))
    knob_visuals = [Visual(disc, dark), Visual(grip, steel), Visual(pointer, Paint((0.9, 0.9, 0.9)))]

    # The base is seen only: burner and knob carry all the collision geometry.
    burner_x = float(burner.pos[0])
    tray = box((-0.065, y0 - 0.006, z0), (burner_x + x1 + 0.006, y1 + 0.006, -0.0005))
    feet = [capsule((x, y, z0), 0.006, 0.004) for x in (-0.05, burner_x + 0.08) for y in (-0.08, 0.08)]
    return {
        "base": Parts((), (Visual(tray, steel), *(Visual(foot, dark) for foot in feet))),
        "burner": Parts((block, plate), tuple(burner_visuals)),
        "button": Parts((disc, grip), tuple(knob_visuals)),
    }
