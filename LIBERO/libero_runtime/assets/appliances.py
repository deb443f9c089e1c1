"""The microwave: its collision geometry is a measured list of primitives, so only its looks are made up here."""

from __future__ import annotations

from libero_runtime.assets.facts import ObjectFacts
from libero_runtime.assets.shapes import Paint, Parts, Visual, box, cylinder

_FRAME = 0.022  # of the door around its window


def microwave(facts: ObjectFacts) -> dict[str, Parts]:
    """A white microwave with a dark window in its hinged door, a steel bar to pull at and a panel of buttons."""
    case, door = facts.body("object"), facts.body("microdoorroot")
    white = Paint((0.70, 0.70, 0.69), emission=0.15, specular=0.1)
    enamel = Paint((0.62, 0.63, 0.64), specular=0.5, shininess=0.5)
    black = Paint((0.06, 0.06, 0.07), specular=0.7, shininess=0.7)
    steel = Paint((0.68, 0.68, 0.70), specular=0.9, shininess=0.8)
    grey = Paint((0.55, 0.56, 0.58), emission=0.2, specular=0.4, shininess=0.4)
    display = Paint((0.10, 0.55, 0.35), emission=0.5, specular=0.1)

    *_, panel = case.collision
    px, py, pz = panel.pos
    front, half_width, half_height = py - panel.size[1], panel.size[0], panel.size[2]
    case_visuals = [Visual(wall, white) for wall in case.collision]
    heating = next(site for site in case.sites if site.name == "heating_region")
    floor_top = float(heating.pos[2] - heating.size[2])
    case_visuals += [
        Visual(cylinder((-0.040, 0.0, floor_top + 0.0080), 0.070, 0.0008), enamel),
        Visual(box((px - half_width + 0.004, front - 0.0008, pz - half_height + 0.006),
                   (px + half_width - 0.004, front + 0.001, pz + half_height - 0.006)), black),
        Visual(box((px - 0.028, front - 0.0014, pz + 0.052), (px + 0.028, front, pz + 0.074)), display),
    ]  # fmt: skip
    for row in range(4):
        for column in (-1, 0, 1):
            x, z = px + 0.019 * column, pz + 0.032 - 0.020 * row
            case_visuals.append(
                Visual(box((x - 0.007, front - 0.0020, z - 0.006), (x + 0.007, front, z + 0.006)), grey)
            )
    case_visuals.append(Visual(box((px - 0.026, front - 0.0024, pz - 0.074), (px + 0.026, front, pz - 0.058)), enamel))

    leaf = next(shape for shape in door.collision if shape.kind == "box")
    bars = [shape for shape in door.collision if shape.kind != "box"]
    low = [center - half for center, half in zip(leaf.pos, leaf.size, strict=True)]
    high = [center + half for center, half in zip(leaf.pos, leaf.size, strict=True)]
    window = box(
        (low[0] + _FRAME, low[1] - 0.0007, low[2] + _FRAME), (high[0] - 0.040, high[1] + 0.0007, high[2] - _FRAME)
    )
    door_visuals = [Visual(leaf, white), Visual(window, black), *(Visual(bar, steel) for bar in bars)]
    return {
        "object": Parts(case.collision, tuple(case_visuals)),
        "microdoorroot": Parts(door.collision, tuple(door_visuals)),
    }
