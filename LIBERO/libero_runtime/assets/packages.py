"""Boxes and cartons of food: a box to touch, under a gable for drinks; printed to look at."""

from __future__ import annotations

import numpy as np

from libero_runtime.assets.facts import BodyFacts, ObjectFacts
from libero_runtime.assets.meshes import FACES, Patch, box_patches, cell, patchwork, swatch
from libero_runtime.assets.shapes import Mesh, Paint, Parts, Primitive, Visual, board, box, cylinder


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


def _print(label: str) -> Paint:
    return Paint((1.0, 1.0, 1.0), texture=label, printed=True, emission=0.25, specular=0.2)


def _carton(facts: ObjectFacts, label: str) -> dict[str, Parts]:
    """A flat box whose end looks along -x and from there reads upright, as does its top."""
    low, high = facts.body("object").bounds
    windows = {face: cell(face) for face in FACES}
    skin = patchwork("carton", box_patches(low, high, front=(-1, 0, 0), up=(0, 0, 1), windows=windows))
    return {"object": Parts((box(low, high),), (Visual(skin, _print(label)),))}


def cream_cheese(facts: ObjectFacts) -> dict[str, Parts]:
    """A small flat box of cream cheese, silver and blue."""
    return _carton(facts, "cream_cheese_label")


def butter(facts: ObjectFacts) -> dict[str, Parts]:
    """A stick of butter in a yellow box."""
    return _carton(facts, "butter_label")


def chocolate_pudding(facts: ObjectFacts) -> dict[str, Parts]:
    """A brown box of pudding powder."""
    return _carton(facts, "chocolate_pudding_label")


_EAVES = 0.0300  # height (y) where the roof of a drink carton begins
_RIDGE = 0.0500  # where its two slopes meet and the sealed fin begins
_FIN = 0.0020  # half the fin's thickness


def _gable_collision(body: BodyFacts) -> tuple[Primitive, ...]:
    """Upright box, two slopes and the fin of a drink carton; up is y, the ridge runs along z."""
    (x0, y0, z0), (x1, y1, z1) = body.bounds
    x, _, z = body.center
    slopes = [
        board(
            (edge, _EAVES, z), (x, _RIDGE, z), axis="z", half_width=(z1 - z0) / 2, thickness=0.004, inside=body.center
        )
        for edge in (x0, x1)
    ]
    fin = box((x - _FIN, _RIDGE - 0.004, z0), (x + _FIN, y1, z1))
    return (box((x0, y0, z0), (x1, _EAVES, z1)), *slopes, fin)


def _gable_mesh(body: BodyFacts) -> Mesh:
    """The same printed: fronts under the gables, looking along z; the roof in one colour with a print on its slopes."""
    (x0, y0, z0), (x1, y1, z1) = body.bounds
    x, _, _ = body.center
    front, up = (0, 0, 1), (0, 1, 0)
    windows = {face: cell(face) for face in FACES if face != "top"}
    patches = box_patches((x0, y0, z0), (x1, _EAVES, z1), front=front, up=up, windows=windows)
    fin = dict.fromkeys(("front", "right", "back", "left", "top"), swatch("top"))
    patches += box_patches((x - _FIN, _RIDGE, z0), (x + _FIN, y1, z1), front=front, up=up, windows=fin)
    for edge, start, stop in ((x1, z1, z0), (x0, z0, z1)):
        across = np.array([0.0, 0.0, stop - start])
        patches.append(
            Patch(np.array([edge, _EAVES, start]), across, np.array([x - edge, _RIDGE - _EAVES, 0.0]), cell("top"))
        )
    for edge, start, stop in ((z1, x0, x1), (z0, x1, x0)):
        across, rise = np.array([stop - start, 0.0, 0.0]), np.array([0.0, _RIDGE - _EAVES, 0.0])
        patches.append(Patch(np.array([start, _EAVES, edge]), across, rise, swatch("top"), taper=0.5))
    return patchwork("carton", patches)


def _gable_carton(facts: ObjectFacts, label: str) -> dict[str, Parts]:
    body = facts.body("object")
    return {"object": Parts(_gable_collision(body), (Visual(_gable_mesh(body), _print(label)),))}


def milk(facts: ObjectFacts) -> dict[str, Parts]:
    """A white and blue carton of milk with a gable top."""
    return _gable_carton(facts, "milk_label")


def orange_juice(facts: ObjectFacts) -> dict[str, Parts]:
    """An orange carton of juice with a gable top."""
    return _gable_carton(facts, "orange_juice_label")
