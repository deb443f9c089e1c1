"""Measured facts of LIBERO's object and arena models, read from `libero_objects.json`.

Units: metres, kilograms, radians; quaternions are (w, x, y, z). Every pose is in the frame of the body's parent, every
bounding box in the body's own frame. The numbers, not the models, are what we ship: the stand-ins are built from them.
"""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

FACTS_FILE = Path(__file__).with_name("libero_objects.json")

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class JointFacts:
    """One hinge or slide joint of an articulated object."""

    name: str
    kind: str
    axis: Vector
    pos: Vector
    range: Vector
    damping: float
    frictionloss: float


@dataclass(frozen=True)
class SiteFacts:
    """A named place on a body: regions of the task language, and the offsets that robosuite places objects with."""

    name: str
    kind: str
    pos: Vector
    quat: Vector
    size: Vector


@dataclass(frozen=True)
class BodyFacts:
    """One body: its inertia, and the bounding box of its collision geometry (None when it has none)."""

    name: str
    parent: str
    pos: Vector
    quat: Vector
    mass: float
    com: Vector
    inertia: Vector
    low: Vector | None
    high: Vector | None
    joints: tuple[JointFacts, ...]
    sites: tuple[SiteFacts, ...]

    @property
    def center(self) -> Vector:
        """Middle of the bounding box."""
        low, high = self.bounds
        return (low + high) / 2

    @property
    def half(self) -> Vector:
        """Half extents of the bounding box."""
        low, high = self.bounds
        return (high - low) / 2

    @property
    def bounds(self) -> tuple[Vector, Vector]:
        """The two corners of the bounding box; an error for a body without collision geometry."""
        if self.low is None or self.high is None:
            raise ValueError(f"body {self.name!r} has no collision geometry, so no bounding box")
        return self.low, self.high


@dataclass(frozen=True)
class ObjectFacts:
    """One object category: bodies in document order, the first being the unnamed root that carries the offset sites."""

    category: str
    total_mass: float
    color: tuple[int, int, int]
    bodies: tuple[BodyFacts, ...]

    def body(self, name: str) -> BodyFacts:
        for body in self.bodies:
            if body.name == name:
                return body
        raise ValueError(f"{self.category} has no body {name!r}; it has {[body.name for body in self.bodies]}")


# mjtGeom numbers used by the measured sites
_SITE_KINDS = {2: "sphere", 3: "capsule", 4: "ellipsoid", 5: "cylinder", 6: "box"}


def _vector(values: Any) -> Vector:
    return np.asarray(values, dtype=np.float64)


def _read_body(raw: dict[str, Any]) -> BodyFacts:
    joints = tuple(
        JointFacts(
            name=joint["name"],
            kind=joint["type"],
            axis=_vector(joint["axis"]),
            pos=_vector(joint["pos"]),
            range=_vector(joint["range"]),
            damping=joint["damping"],
            frictionloss=joint["frictionloss"],
        )
        for joint in raw["joints"]
    )
    sites = tuple(
        SiteFacts(
            name=site["name"],
            kind=_SITE_KINDS[site["type"]],
            pos=_vector(site["pos"]),
            quat=_vector(site["quat"]),
            size=_vector(site["size"]),
        )
        for site in raw["sites"]
    )
    return BodyFacts(
        name=raw["name"],
        parent=raw["parent"],
        pos=_vector(raw["pos"]),
        quat=_vector(raw["quat"]),
        mass=raw["mass"],
        com=_vector(raw["com"]),
        inertia=_vector(raw["inertia"]),
        low=_vector(raw["aabb_min"]) if "aabb_min" in raw else None,
        high=_vector(raw["aabb_max"]) if "aabb_max" in raw else None,
        joints=joints,
        sites=sites,
    )


@functools.cache
def raw_facts() -> dict[str, Any]:
    """The whole data file as parsed JSON."""
    facts: dict[str, Any] = json.loads(FACTS_FILE.read_text(encoding="utf-8"))
    return facts


@functools.cache
def object_facts(category: str) -> ObjectFacts:
    """Facts of one category of the BDDL language, such as `akita_black_bowl`."""
    objects = raw_facts()["objects"]
    if category not in objects:
        raise ValueError(f"no facts about the object {category!r}; known: {sorted(objects)}")
    raw = objects[category]
    if "bodies" not in raw:
        raise ValueError(f"the facts about {category!r} are a list of primitives, not of bodies")
    red, green, blue = raw["median_texture_rgb"]
    return ObjectFacts(
        category=category,
        total_mass=raw["total_mass"],
        color=(red, green, blue),
        bodies=tuple(_read_body(body) for body in raw["bodies"]),
    )
