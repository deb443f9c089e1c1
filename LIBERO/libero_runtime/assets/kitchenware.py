"""Things of the kitchen with a shape of their own: frying pan, moka pot and wine bottle."""

from __future__ import annotations

import math

from libero_runtime.assets.facts import BodyFacts, ObjectFacts
from libero_runtime.assets.shapes import Paint, Parts, Primitive, Visual, board, box, cylinder, lathe
from libero_runtime.assets.tableware import floor_box, round_wall

_OCTAGON = math.tan(math.pi / 8)


def octagon(center: tuple[float, float], half: tuple[float, float], z0: float, z1: float) -> tuple[Primitive, ...]:
    """An upright octagon as two crossed boxes: flat sides along x and y, cut corners, few contacts.

    `half` are the distances of the flat sides from the axis along x and y.
    """
    (x, y), (a, b) = center, half
    return tuple(box((x - u, y - v, z0), (x + u, y + v, z1)) for u, v in ((a, b * _OCTAGON), (a * _OCTAGON, b)))


def _axis(body: BodyFacts) -> tuple[float, float]:
    return float(body.center[0]), float(body.center[1])


def wine_bottle(facts: ObjectFacts) -> dict[str, Parts]:
    """A dark green bottle with a cream label and a red capsule over the cork."""
    body = facts.body("object")
    x, y = _axis(body)
    half_x, half_y, _ = (float(value) for value in body.half)
    bottom, top = float(body.bounds[0][2]), float(body.bounds[1][2])
    collision = [
        *octagon((x, y), (half_x, half_y), bottom, 0.0600),
        *octagon((x, y), (0.0160, 0.0160), 0.0600, 0.0740),
        *octagon((x, y), (0.0100, 0.0100), 0.0740, 0.0900),
        *octagon((x, y), (0.0070, 0.0070), 0.0900, top),
    ]
    radius = 0.0212
    center = (x, y, 0.0)
    glass = lathe(
        "glass",
        [(0.0, bottom + 0.003), (0.0150, bottom), (radius - 0.0012, bottom), (radius, bottom + 0.002), (radius, 0.0580),
         (0.0198, 0.0650), (0.0155, 0.0740), (0.0105, 0.0840), (0.0076, 0.0930), (0.0068, 0.1050), (0.0066, 0.1500),
         (0.0076, 0.1505), (0.0076, 0.1535), (0.0066, 0.1540), (0.0066, top - 0.001), (0.0060, top), (0.0, top)],
        center=center,
        num_sides=28,
    )  # fmt: skip
    label_outline = [(radius + 0.0003, 0.0180), (radius + 0.0003, 0.0500), (radius - 0.001, 0.0500),
                     (radius - 0.001, 0.0180), (radius + 0.0003, 0.0180)]  # fmt: skip
    stripe_outline = [(radius + 0.0005, 0.0400), (radius + 0.0005, 0.0440), (radius - 0.001, 0.0440),
                      (radius - 0.001, 0.0400), (radius + 0.0005, 0.0400)]  # fmt: skip
    capsule_outline = [(0.0072, 0.1250), (0.0072, top - 0.0006), (0.0060, top + 0.0004), (0.0, top + 0.0004)]
    visuals = (
        Visual(glass, Paint((0.05, 0.14, 0.07), emission=0.15, specular=0.9, shininess=0.9)),
        Visual(lathe("label", label_outline, center=center, num_sides=28), Paint((0.88, 0.82, 0.64), emission=0.25)),
        Visual(lathe("stripe", stripe_outline, center=center, num_sides=28), Paint((0.45, 0.07, 0.10))),
        Visual(
            lathe("capsule", [(0.0, 0.1250), *capsule_outline], center=center, num_sides=20),
            Paint((0.45, 0.07, 0.10), specular=0.5, shininess=0.5),
        ),
    )
    return {"object": Parts(tuple(collision), visuals)}


def moka_pot(facts: ObjectFacts) -> dict[str, Parts]:
    """An octagonal aluminium pot: boiler, waist, jug with a spout (-y), lid with a knob and a black handle (+y)."""
    body = facts.body("object")
    low, high = body.bounds
    bottom, top = float(low[2]), float(high[2])
    x = float(body.center[0])
    boiler = float(body.half[0])
    waist, jug_top, lid_top = -0.0080, 0.0480, 0.0560
    spout_end, handle_end = float(low[1]), float(high[1])
    spout = box((x - 0.010, spout_end, 0.0300), (x + 0.010, -0.0300, jug_top))
    grip = box((x - 0.008, handle_end - 0.014, -0.0250), (x + 0.008, handle_end, 0.0460))
    arm = box((x - 0.008, 0.0300, 0.0320), (x + 0.008, handle_end - 0.014, 0.0460))
    knob = (box((x - 0.009, -0.009, lid_top), (x + 0.009, 0.009, top)),)
    collision = [
        *octagon((x, 0.0), (boiler, boiler), bottom, -0.0300),
        *octagon((x, 0.0), (0.0330, 0.0330), -0.0300, waist),
        *octagon((x, 0.0), (0.0345, 0.0345), waist, lid_top),
        spout, grip, arm, *knob,
    ]  # fmt: skip

    turn = 1 / math.cos(math.pi / 8)

    def metal(name: str, profile: list[tuple[float, float]]) -> Visual:
        """A piece of aluminium with eight sides, from its (radius, height) outline."""
        # eight sides, turned by half a side so that flats face along x and y as those of the collision boxes do
        corners = [(radius * turn, height) for radius, height in profile]
        mesh = lathe(name, corners, center=(x, 0.0, 0.0), num_sides=8, start_angle=math.pi / 8)
        return Visual(mesh, aluminium)

    aluminium = Paint((0.70, 0.70, 0.71), emission=0.15, specular=0.9, shininess=0.8)
    black = Paint((0.06, 0.06, 0.06), specular=0.4, shininess=0.4)
    visuals = (
        metal("boiler", [(0.0, bottom), (boiler - 0.002, bottom), (boiler, bottom + 0.003), (0.0330, -0.0160),
                         (0.0330, -0.0120), (0.0, -0.0120)]),
        Visual(cylinder((x, 0.0, -0.0095), 0.0350, 0.0035), Paint((0.60, 0.60, 0.61), specular=0.9, shininess=0.8)),
        metal("jug", [(0.0, -0.0060), (0.0285, -0.0060), (0.0350, jug_top), (0.0, jug_top)]),
        metal("lid", [(0.0, jug_top), (0.0365, jug_top), (0.0365, jug_top + 0.002), (0.0100, lid_top + 0.002),
                      (0.0, lid_top + 0.002)]),
        Visual(board((x, -0.0250, 0.0), (x, spout_end, jug_top), axis="x", half_width=0.009, thickness=0.010,
                     inside=(x, 0.0, jug_top)), aluminium),
        Visual(cylinder((x, 0.0, 0.0625), 0.0060, 0.0065), black),
        Visual(cylinder((x, 0.0, (0.0680 + top) / 2), 0.0095, (top - 0.0680) / 2), black),
        Visual(arm, black),
        Visual(board((x, handle_end, 0.0460), (x, handle_end - 0.007, -0.0250), axis="x", half_width=0.008,
                     thickness=0.013, inside=(x, 0.0, 0.0)), black),
    )  # fmt: skip
    return {"object": Parts(tuple(collision), visuals)}


def frypan(facts: ObjectFacts) -> dict[str, Parts]:
    """A dark frying pan, its handle along +x rising from the rim."""
    body = facts.body("object")
    low, high = body.bounds
    bottom = float(low[2])
    rim_height = 0.0420
    rim = float(body.half[1])
    x, y = float(low[0]) + rim, float(body.center[1])
    num_boxes = 16
    corner = 1 / math.cos(math.pi / num_boxes)
    foot = 0.0640
    outer = [(foot * corner, bottom + 0.0006), (rim * corner, rim_height)]
    walls = round_wall(outer, 0.0040, body, num_boxes=num_boxes, center=(x, y), top=rim_height)
    floor = floor_box(body, foot + 0.004, bottom + 0.0045, center=(x, y))
    root, bend, end = x + rim - 0.008, x + rim + 0.055, float(high[0])
    top = float(high[2])
    inside = (root, y, -1.0)
    # the upper face rises from the rim, then runs level to the end
    neck = board(
        (root, y, rim_height), (bend, y, top - 0.0002), axis="y", half_width=0.010, thickness=0.010, inside=inside
    )
    grip = box((bend - 0.002, y - 0.011, top - 0.012), (end, y + 0.011, top))
    dark = Paint((0.10, 0.105, 0.10), specular=0.5, shininess=0.5)
    coating = Paint((0.055, 0.055, 0.06), specular=0.3, shininess=0.3)
    black = Paint((0.04, 0.04, 0.04), specular=0.3, shininess=0.3)
    steel = Paint((0.62, 0.62, 0.63), specular=0.9, shininess=0.8)
    pan = lathe(
        "pan",
        [(0.0, bottom), (foot - 0.004, bottom), (foot + 0.004, bottom + 0.002), (rim - 0.006, rim_height - 0.006),
         (rim, rim_height - 0.001), (rim - 0.001, rim_height), (rim - 0.005, rim_height - 0.002),
         (foot + 0.002, bottom + 0.006), (0.0, bottom + 0.0046)],
        center=(x, y, 0.0),
        num_sides=40,
    )  # fmt: skip
    disc = cylinder((x, y, bottom + 0.0048), foot - 0.002, 0.0006)
    rivets = [
        Visual(cylinder((root + 0.010, y + dy, rim_height + 0.001), 0.003, 0.003), steel) for dy in (-0.006, 0.006)
    ]
    visuals = (
        Visual(pan, dark), Visual(disc, coating), Visual(neck, steel), Visual(grip, black),
        Visual(cylinder((end - 0.012, y, top - 0.002), 0.0055, 0.0023), steel), *rivets,
    )  # fmt: skip
    return {"object": Parts((floor, *walls, neck, grip), visuals)}
