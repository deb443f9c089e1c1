"""Boxes and cartons of food: a box to touch, under a gable for drinks; printed to look at."""

from __future__ import annotations

from libero_runtime.assets.facts import ObjectFacts
from libero_runtime.assets.shapes import Paint, Parts, Primitive, Visual, board, box, cylinder


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


def _carton(facts: ObjectFacts, paint: Paint) -> dict[str, Parts]:
    body = facts.body("object")
    low, high = body.bounds
    carton = box(low, high)
    return {"object": Parts((carton,), (Visual(carton, paint),))}


def cream_cheese(facts: ObjectFacts) -> dict[str, Parts]:
    """A small flat box of cream cheese, silver and blue."""
    return _carton(facts, Paint((0.28, 0.36, 0.62)))


def butter(facts: ObjectFacts) -> dict[str, Parts]:
    """A stick of butter in a yellow box."""
    return _carton(facts, Paint((0.93, 0.78, 0.22)))


def chocolate_pudding(facts: ObjectFacts) -> dict[str, Parts]:
    """A brown box of pudding powder."""
    return _carton(facts, Paint((0.33, 0.18, 0.11)))


_EAVES = 0.0300  # height (y) where the roof of a drink carton begins
_RIDGE = 0.0500  # where its two slopes meet and the sealed fin begins


def _gable_shapes(facts: ObjectFacts) -> tuple[Primitive, ...]:
    """Upright box, two slopes and the fin of a drink carton; up is y, the ridge runs along z."""
    body = facts.body("object")
    (x0, y0, z0), (x1, y1, z1) = body.bounds
    x, _, z = body.center
    inside = (x, y0, z)
    slopes = [
        board((edge, _EAVES, z), (x, _RIDGE, z), axis="z", half_width=(z1 - z0) / 2, thickness=0.004, inside=inside)
        for edge in (x0, x1)
    ]
    fin = box((x - 0.0020, _RIDGE - 0.004, z0), (x + 0.0020, y1, z1))
    return (box((x0, y0, z0), (x1, _EAVES, z1)), *slopes, fin)


def _gable_carton(facts: ObjectFacts, paint: Paint) -> dict[str, Parts]:
    shapes = _gable_shapes(facts)
    return {"object": Parts(shapes, tuple(Visual(shape, paint) for shape in shapes))}


def milk(facts: ObjectFacts) -> dict[str, Parts]:
    """A white and blue carton of milk with a gable top."""
    return _gable_carton(facts, Paint((0.90, 0.93, 0.97)))


def orange_juice(facts: ObjectFacts) -> dict[str, Parts]:
    """An orange carton of juice with a gable top."""
    return _gable_carton(facts, Paint((0.95, 0.55, 0.10)))
