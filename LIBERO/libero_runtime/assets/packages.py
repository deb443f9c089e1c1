"""Boxes of food: one collision box each, printed with simple raised labels."""

from __future__ import annotations

from libero_runtime.assets.facts import ObjectFacts
from libero_runtime.assets.shapes import Paint, Parts, Visual, box, cylinder


def cookies(facts: ObjectFacts) -> dict[str, Parts]:
    """A dark red box of cookies with a cream label on which cookies are printed."""
    body = facts.body("object")
    (x0, y0, z0), (x1, y1, z1) = body.bounds
    carton = box((x0, y0, z0), (x1, y1, z1))
    label = box((x0 + 0.008, y0 + 0.012, z1 - 0.002), (x1 - 0.008, y1 - 0.012, z1 + 0.0005))
    stripe = box((x0 + 0.0001, y0 + 0.003, z1 - 0.002), (x1 - 0.0001, y0 + 0.008, z1 + 0.0004))
    visuals = [
        Visual(carton, Paint((0.55, 0.09, 0.05), specular=0.3)),
        Visual(label, Paint((0.93, 0.85, 0.62), specular=0.3)),
        Visual(stripe, Paint((0.95, 0.75, 0.15), specular=0.3)),
    ]
    for x, y in ((-0.009, -0.012), (0.010, 0.002), (-0.007, 0.016)):
        visuals.append(Visual(cylinder((x, y, z1), 0.0085, 0.0010), Paint((0.55, 0.33, 0.14))))
        visuals += [
            Visual(cylinder((x + dx, y + dy, z1 + 0.0003), 0.0014, 0.0012), Paint((0.22, 0.11, 0.05)))
            for dx, dy in ((-0.003, 0.002), (0.003, 0.003), (0.001, -0.004))
        ]
    return {"object": Parts((carton,), tuple(visuals))}
