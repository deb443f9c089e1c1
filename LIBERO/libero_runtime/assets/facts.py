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

from libero_runtime.assets.shapes import IDENTITY, Primitive, Vector, bounding_box, matrix_to_quat, volume

FACTS_FILE = Path(__file__).with_name("libero_objects.json")

_DENSITY = 100.0  # kg/m^3, measured on every object's collision geometry


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
    """One body: its inertia, and the bounding box of its collision geometry (None when it has none).

    Where the collision geometry itself was measured, it is listed; inertia and centre of mass then follow from it and
    are None.
    """

    name: str
    parent: str
    pos: Vector
    quat: Vector
    mass: float
    com: Vector | None
    inertia: Vector | None
    low: Vector | None
    high: Vector | None
    joints: tuple[JointFacts, ...]
    sites: tuple[SiteFacts, ...]
    collision: tuple[Primitive, ...] = ()

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


def _numbers(text: str | None, default: tuple[float, ...]) -> tuple[float, ...]:
    """Numbers of an MJCF attribute."""
    return default if text is None else tuple(float(value) for value in text.split())


def _tree_primitive(raw: dict[str, str]) -> Primitive:
    angles = _numbers(raw.get("euler"), (0.0, 0.0, 0.0))
    if angles[1] or angles[2]:
        raise ValueError(f"expected rotations about x only, given euler {angles}")
    cos, sin = np.cos(angles[0]), np.sin(angles[0])
    turned = np.array([[1.0, 0.0, 0.0], [0.0, cos, -sin], [0.0, sin, cos]])
    x, y, z = _numbers(raw["pos"], ())
    return Primitive(
        raw["type"], (x, y, z), _numbers(raw["size"], ()), matrix_to_quat(turned) if angles[0] else IDENTITY
    )


def _tree_joint(raw: dict[str, str]) -> JointFacts:
    return JointFacts(
        name=raw["name"],
        kind=raw["type"],
        axis=_vector(_numbers(raw["axis"], ())),
        pos=_vector(_numbers(raw.get("pos"), (0.0, 0.0, 0.0))),
        range=_vector(_numbers(raw["range"], ())),
        damping=float(raw["damping"]),
        frictionloss=float(raw.get("frictionloss", 0.0)),
    )


def _tree_site(raw: dict[str, str]) -> SiteFacts:
    size = _numbers(raw["size"], ())
    return SiteFacts(
        name=raw["name"],
        kind=raw.get("type", "sphere"),
        pos=_vector(_numbers(raw["pos"], ())),
        quat=_vector(_numbers(raw.get("quat"), IDENTITY)),
        size=_vector(size if len(size) == 3 else (size[0],) * 3),
    )


def _read_tree(raw: dict[str, Any], parent: str) -> list[BodyFacts]:
    """Bodies of the other form of the facts: MJCF attributes as they stand, nested, with all collision geometry."""
    # geoms of other classes are seen only
    collision = tuple(_tree_primitive(geom) for geom in raw["collision"] if geom["class"].endswith("_collision"))
    low, high = bounding_box(collision) if collision else (None, None)
    body = BodyFacts(
        name=raw["name"] or "",
        parent=parent,
        pos=_vector(_numbers(raw["pos"], (0.0, 0.0, 0.0))),
        quat=_vector(_numbers(raw["quat"], IDENTITY)),
        mass=_DENSITY * sum(volume(primitive) for primitive in collision),
        com=None,
        inertia=None,
        low=low,
        high=high,
        joints=tuple(_tree_joint(joint) for joint in raw["joints"]),
        sites=tuple(_tree_site(site) for site in raw["sites"]),
        collision=collision,
    )
    return [body, *(inner for child in raw["bodies"] for inner in _read_tree(child, body.name))]


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
    if "body_tree" in raw:
        bodies = tuple(_read_tree(raw["body_tree"], "world"))
        return ObjectFacts(category=category, total_mass=sum(body.mass for body in bodies), bodies=bodies)
    return ObjectFacts(
        category=category,
        total_mass=raw["total_mass"],
        bodies=tuple(_read_body(body) for body in raw["bodies"]),
    )
