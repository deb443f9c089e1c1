"""Fixtures: the cabinets with three drawers, the stove with its knob, and the wine rack."""

from __future__ import annotations

import math

import numpy as np

from libero_runtime.assets.facts import BodyFacts, ObjectFacts
from libero_runtime.assets.meshes import Patch, patchwork
from libero_runtime.assets.shapes import (
    Mesh,
    Paint,
    Parts,
    Primitive,
    Vector,
    Visual,
    board,
    box,
    capsule,
    cylinder,
    quat_to_matrix,
    swept,
)

# A drawer must never touch the carcass: both are static neighbours, so MuJoCo does not filter their contacts.
_CLEARANCE = 0.0012
_WALL = 0.0070  # thickness of a drawer's floor and walls: bounding box minus the measured inside region
_HOLLOW = 0.0900  # width of a bottle's place on the wine rack: between its pegs
_CREST = 0.0300  # height of the wood between two places
_SLATS = ((0.004, 0.026), (0.064, 0.084))  # distances from the corner of the rack's slope
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


def _wavy_board(name: str, origin: Vector, up: Vector, thickness: Vector, foot: float, *, half_width: float) -> Mesh:
    """A board across x with three hollows for bottles along its upper edge, which is level with `origin` in them.

    Hollows meet in crests at the rack's pegs; `foot` metres of wood are below them.
    """
    x = np.linspace(-half_width, half_width, 31)
    from_middle = np.abs(x - _HOLLOW * np.round(x / _HOLLOW)) / (_HOLLOW / 2)  # 0 in a hollow's middle, 1 on a crest
    heights = _CREST * np.minimum(1.06 * from_middle, 1.0) ** 2  # crests are flat on top
    edge = origin + np.outer(x, (1.0, 0.0, 0.0))
    return swept(name, edge - foot * up, edge + heights[:, None] * up, thickness)


def wine_rack(facts: ObjectFacts) -> dict[str, Parts]:
    """A rack of crossed slats. Bottles lie on its slope, their bottoms against the plate of the top region.

    In the plane of y and z, a steep back that carries the region's plate and a slope at right angles to it make a
    corner; front legs cross the back below. Pegs keep bottles from rolling aside. They are seen as crests of the wavy
    boards that bottles lie on; crests and the second row of them near the floor are there for the eye only.
    """
    body = facts.body("object")
    region = body.sites[0]
    (_, y0, z0), (x1, y1, z1) = (tuple(float(value) for value in corner) for corner in body.bounds)
    # along the plate downwards, and its normal: along a lying bottle
    _, down, out = quat_to_matrix(region.quat).T
    slat, half_width = 0.0130, 0.0110
    face = region.pos + out * region.size[2]
    corner = face + down * (region.size[1] + 0.0005)
    side = x1 - half_width
    # where the back's outer upper edge and the slope's lower outer edge meet the bounding box
    back_top = face + down * ((y0 + slat * out[1] - face[1]) / down[1])
    back_foot = face + down * ((z0 + slat - face[2]) / down[2])
    length = float((y1 - slat * down[1] - corner[1]) / out[1])
    post = float((z1 - (corner + length * out)[2]) / -down[2])

    def slope_board(start: float, stop: float, *, x: float, half: float, above: float = 0.0) -> Primitive:
        """A board on the slope between two distances from the corner, `above` metres over it."""
        first, last = (corner + distance * out - above * down for distance in (start, stop))
        first[0] = last[0] = x
        return board(first, last, axis="x", half_width=half, thickness=slat, inside=first + down)

    boards = [
        slope_board(0.004, 0.084, x=0.0, half=side - half_width),
        slope_board(0.130, 0.155, x=0.0, half=side - half_width),
        slope_board(length - 0.030, length - 0.010, x=0.0, half=side - half_width),
        board(face - 0.026 * down, face + 0.026 * down, axis="x", half_width=side - half_width, thickness=slat,
              inside=face - out),
    ]  # fmt: skip
    pegs = [slope_board(0.030, 0.060, x=x, half=0.005, above=0.010) for x in (-_HOLLOW / 2, _HOLLOW / 2)]
    frame = []
    for x in (-side, side):
        shift, inner = np.array([x, 0.0, 0.0]), x * (1 - 2 * half_width / side)
        top = corner + length * out
        frame += [
            board(back_top + shift, back_foot + shift, axis="x", half_width=half_width, thickness=slat,
                  inside=back_top + shift - out),
            slope_board(0.0, length, x=x, half=half_width),
            board(top + shift, top + shift - post * down, axis="x", half_width=half_width, thickness=slat,
                  inside=top + shift - out),
            board((inner, y1 - 0.022, top[2] - 0.006), (inner, y0 + 0.020, z0 + 0.006), axis="x",
                  half_width=half_width, thickness=slat, inside=(inner, y0, z1)),
            box((min(x, inner) - half_width, y0 + 0.010, z0), (max(x, inner) + half_width, 0.060, z0 + slat)),
        ]  # fmt: skip
    # seen instead of the first board, whose middle the lower wavy board covers
    slats = [slope_board(start, stop, x=0.0, half=side - half_width) for start, stop in _SLATS]
    wavy = [
        ("plate", face - 0.026 * down, -down, -slat * out, 0.052),
        ("lower", corner + 0.034 * out, -down, 0.022 * out, slat),
        ("middle", corner + 0.130 * out, -down, 0.025 * out, slat),
        ("upper", corner + (length - 0.030) * out, -down, 0.020 * out, slat),
        # a second row of bottles would lie between the feet
        ("back", np.array([0.0, -0.090, 0.045]), np.array([0.0, 0.0, 1.0]), np.array([0.0, 0.014, 0.0]), 0.045),
        ("front", np.array([0.0, 0.026, 0.045]), np.array([0.0, 0.0, 1.0]), np.array([0.0, 0.014, 0.0]), 0.045),
    ]
    red = Paint((0.56, 0.25, 0.13), texture="wood_dark", emission=0.2, specular=0.3, shininess=0.3)
    pale = Paint((0.74, 0.44, 0.25), texture="wood_dark", emission=0.2, specular=0.3, shininess=0.3)
    visuals = [Visual(shape, red) for shape in (*frame, *slats)]
    visuals += [Visual(_wavy_board(*shape, half_width=side - half_width), pale) for shape in wavy]
    for x in (-x1, x1):
        visuals += _sign(corner + 0.002 * out - 0.008 * down, out, down, x=x, wood=red)
    return {"object": Parts((*boards, *frame, *pegs), tuple(visuals))}


def _sign(corner: Vector, along: Vector, down: Vector, *, x: float, wood: Paint) -> list[Visual]:
    """A sign on the outside of one of the rack's side frames, at `x`, that says what the rack is for."""
    length, height, thickness = 0.096, 0.033, 0.004
    outside, inside = np.array([x, 0.0, 0.0]), np.array([x - math.copysign(thickness / 2, x), 0.0, 0.0])
    back = board(corner + inside, corner + inside + length * along, axis="x", half_width=thickness / 2,
                 thickness=height, inside=corner + inside + height * down)  # fmt: skip
    # seen from outside, letters run up the slope on one side and down it on the other
    start, right = (corner, length * along) if x > 0 else (corner + length * along, -length * along)
    proud = outside * (1 + 0.0005 / abs(x))
    patch = Patch(start + height * down + proud, right, -height * down, (0.0, 0.0, 1.0, 1.0))
    paint = Paint((1.0, 1.0, 1.0), texture="wine_rack_label", printed=True, emission=0.25)
    return [Visual(back, wood), Visual(patchwork("sign_left" if x < 0 else "sign_right", [patch]), paint)]
