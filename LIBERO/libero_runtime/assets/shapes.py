"""Primitive shapes and generated meshes that the stand-in objects are put together from.

Lengths in metres, angles in radians, quaternions (w, x, y, z), colours in [0, 1].
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]
Point = Sequence[float] | Vector
Profile = Sequence[tuple[float, float]]  # (radius, height) pairs of a polyline, from the bottom to the top

IDENTITY = (1.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True)
class Primitive:
    """A box (half extents), cylinder or capsule (radius, half length along z) at a pose of its body."""

    kind: str
    pos: tuple[float, float, float]
    size: tuple[float, ...]
    quat: tuple[float, float, float, float] = IDENTITY


@dataclass(frozen=True)
class Mesh:
    """A triangle mesh in the frame of its body: `vertices` (V, 3), `faces` (F, 3) counter-clockwise from outside.

    `uvs` (V, 2) place a picture on it, with (0, 0) at the picture's lower left corner.
    """

    name: str
    vertices: Vector
    faces: NDArray[np.int64]
    uvs: Vector | None = None

    def as_obj(self) -> str:
        """The mesh as the text of a Wavefront file."""
        lines = [f"v {x:.6f} {y:.6f} {z:.6f}" for x, y, z in self.vertices]
        if self.uvs is None:
            lines += [f"f {a} {b} {c}" for a, b, c in self.faces + 1]
        else:
            lines += [f"vt {u:.5f} {v:.5f}" for u, v in self.uvs]
            lines += [f"f {a}/{a} {b}/{b} {c}/{c}" for a, b, c in self.faces + 1]
        return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class Paint:
    """How a visual looks: a colour, and optionally the name of a generated picture that it multiplies.

    The picture repeats every 25 cm, unless it is `printed` where the mesh's own coordinates put it. `emission` is the
    share of the colour that shows without any light: prints stay legible on faces that LIBERO's lamps hardly reach.
    """

    rgb: tuple[float, float, float]
    texture: str | None = None
    printed: bool = False
    emission: float = 0.0
    specular: float = 0.2
    shininess: float = 0.2


@dataclass(frozen=True)
class Visual:
    """Something that is seen and never touched."""

    shape: Primitive | Mesh
    paint: Paint


@dataclass(frozen=True)
class Parts:
    """What one body is made of."""

    collision: tuple[Primitive, ...]
    visuals: tuple[Visual, ...]


def _triple(values: Point) -> tuple[float, float, float]:
    x, y, z = (float(value) for value in values)
    return x, y, z


def box(low: Point, high: Point) -> Primitive:
    """The axis-aligned box between two corners."""
    low_array, high_array = np.asarray(low, dtype=np.float64), np.asarray(high, dtype=np.float64)
    return Primitive("box", _triple((low_array + high_array) / 2), _triple((high_array - low_array) / 2))


_AXIS_QUATS = {
    "z": IDENTITY,
    "y": (math.sqrt(0.5), -math.sqrt(0.5), 0.0, 0.0),
    "x": (math.sqrt(0.5), 0.0, math.sqrt(0.5), 0.0),
}


def cylinder(center: Point, radius: float, half_length: float, axis: str = "z") -> Primitive:
    """A cylinder around `axis`."""
    return Primitive("cylinder", _triple(center), (radius, half_length), _AXIS_QUATS[axis])


def capsule(center: Point, radius: float, half_length: float, axis: str = "z") -> Primitive:
    """A capsule along `axis`; the round ends come on top of the half length."""
    return Primitive("capsule", _triple(center), (radius, half_length), _AXIS_QUATS[axis])


def board(start: Point, stop: Point, *, axis: str, half_width: float, thickness: float, inside: Point) -> Primitive:
    """A slanted board: its outer face runs from `start` to `stop`, its width lies along `axis` around them.

    The thickness goes towards the point `inside`.
    """
    first, last = np.asarray(start, dtype=np.float64), np.asarray(stop, dtype=np.float64)
    width = np.eye(3)["xyz".index(axis)]
    along = (last - first) / np.linalg.norm(last - first)
    inward = np.cross(width, along)
    if inward @ (np.asarray(inside, dtype=np.float64) - first) < 0:
        width, inward = -width, -inward
    return Primitive(
        "box",
        _triple((first + last) / 2 + inward * thickness / 2),
        (half_width, thickness / 2, float(np.linalg.norm(last - first)) / 2),
        matrix_to_quat(np.stack([width, np.cross(along, width), along], axis=1)),
    )


def matrix_to_quat(matrix: Vector) -> tuple[float, float, float, float]:
    """Quaternion (w, x, y, z) of a rotation matrix; the largest component decides the branch, so it is stable."""
    trace = float(np.trace(matrix))
    candidates = np.array([trace, matrix[0, 0], matrix[1, 1], matrix[2, 2]])
    branch = int(np.argmax(candidates))
    if branch == 0:
        quat = np.array(
            [1 + trace, matrix[2, 1] - matrix[1, 2], matrix[0, 2] - matrix[2, 0], matrix[1, 0] - matrix[0, 1]]
        )
    else:
        i = branch - 1
        j, k = (i + 1) % 3, (i + 2) % 3
        quat = np.zeros(4)
        quat[0] = matrix[k, j] - matrix[j, k]
        quat[1 + i] = 1 + matrix[i, i] - matrix[j, j] - matrix[k, k]
        quat[1 + j] = matrix[j, i] + matrix[i, j]
        quat[1 + k] = matrix[k, i] + matrix[i, k]
    w, x, y, z = (float(value) for value in quat / np.linalg.norm(quat))
    return w, x, y, z


def wall_ring(
    lower: tuple[float, float], upper: tuple[float, float], thickness: float, *, center: Point, num_boxes: int
) -> tuple[Primitive, ...]:
    """A slanted round wall made of boxes, as primitive collision needs it.

    `lower` and `upper` are the (radius, height) of the outer surface's two edges, `thickness` is measured
    across the wall, inwards. The corners of the boxes lie on the given radii (nothing sticks out, and published
    initial states place some objects within a millimetre of each other), their middles on the x and y axes when
    `num_boxes` is a multiple of four, so that fingers along an axis meet a flat side.
    """
    shrink = math.cos(math.pi / num_boxes)
    (radius_low, z_low), (radius_high, z_high) = (lower[0] * shrink, lower[1]), (upper[0] * shrink, upper[1])
    run, rise = radius_high - radius_low, z_high - z_low
    length = math.hypot(run, rise)
    half_width = max(radius_low, radius_high) * math.tan(math.pi / num_boxes)
    cx, cy, cz = _triple(center)
    boxes = []
    for index in range(num_boxes):
        angle = 2 * math.pi * index / num_boxes
        outward = np.array([math.cos(angle), math.sin(angle), 0.0])
        up = np.array([0.0, 0.0, 1.0])
        along = (run * outward + rise * up) / length
        inward = (-rise * outward + run * up) / length
        middle = outward * (radius_low + radius_high) / 2 + up * (z_low + z_high) / 2 + inward * thickness / 2
        rotation = np.stack([np.cross(inward, along), inward, along], axis=1)
        boxes.append(
            Primitive(
                "box",
                _triple(middle + np.array([cx, cy, cz])),
                (half_width, thickness / 2, length / 2),
                matrix_to_quat(rotation),
            )
        )
    return tuple(boxes)


def lathe(
    name: str,
    profile: Profile,
    *,
    center: Point = (0.0, 0.0, 0.0),
    num_sides: int = 48,
    start_angle: float = 0.0,
) -> Mesh:
    """Turn a polyline around the z axis.

    The polyline starts and ends on the axis or returns to its start, and runs so that outside is on its right hand:
    up the outer side, down the inner one. Points on the axis become a single vertex.
    """
    cx, cy, cz = _triple(center)
    vertices: list[tuple[float, float, float]] = []
    rows: list[list[int]] = []
    for radius, height in profile:
        if radius < 1e-9:
            rows.append([len(vertices)] * num_sides)
            vertices.append((cx, cy, cz + height))
            continue
        rows.append([len(vertices) + side for side in range(num_sides)])
        for side in range(num_sides):
            angle = start_angle + 2 * math.pi * side / num_sides
            vertices.append((cx + radius * math.cos(angle), cy + radius * math.sin(angle), cz + height))
    faces = []
    for below, above in pairwise(rows):
        for side in range(num_sides):
            following = (side + 1) % num_sides
            a, b, c, d = below[side], below[following], above[following], above[side]
            faces += [triangle for triangle in ((a, b, c), (a, c, d)) if len(set(triangle)) == 3]
    return Mesh(name, np.array(vertices), np.array(faces, dtype=np.int64))


def tube(name: str, path: Sequence[Point], radius: float, *, num_sides: int = 10) -> Mesh:
    """A round tube with flat ends along a path that lies in one plane."""
    points = np.asarray(path, dtype=np.float64)
    tangents = np.gradient(points, axis=0)
    tangents /= np.linalg.norm(tangents, axis=1, keepdims=True)
    across = np.cross(points[1] - points[0], points[-1] - points[len(points) // 2])
    if np.linalg.norm(across) < 1e-12:  # straight: any direction across it will do
        across = np.cross(tangents[0], np.eye(3)[int(np.argmin(np.abs(tangents[0])))])
    across /= np.linalg.norm(across)
    angles = 2 * np.pi * np.arange(num_sides) / num_sides
    # around the tangent by the right hand, so that faces look outwards
    circle = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    vertices = [
        point + radius * (circle[:, :1] * across + circle[:, 1:] * np.cross(tangent, across))
        for point, tangent in zip(points, tangents, strict=True)
    ]
    faces = []
    for ring in range(len(points) - 1):
        for side in range(num_sides):
            a, b = ring * num_sides + side, ring * num_sides + (side + 1) % num_sides
            faces += [(a, b, b + num_sides), (a, b + num_sides, a + num_sides)]
    last = (len(points) - 1) * num_sides
    for side in range(1, num_sides - 1):
        faces += [(0, side + 1, side), (last, last + side, last + side + 1)]
    return Mesh(name, np.concatenate(vertices), np.array(faces, dtype=np.int64))


def swept(name: str, low: Vector, high: Vector, sweep: Vector) -> Mesh:
    """A board with wavy edges: the strip between two polylines (N, 3), pushed along `sweep`.

    Its four sides and two ends share no vertices, so that its edges are sharp.
    """
    corners = [low, high, high + sweep, low + sweep]  # of every cross section, in turn
    strips = [*zip(corners, [*corners[1:], corners[0]], strict=True)]
    strips += [(np.stack([a[end], b[end]]), np.stack([d[end], c[end]])) for end in (0, -1) for a, b, c, d in [corners]]
    vertices: list[Vector] = []
    faces: list[tuple[int, int, int]] = []
    for index, (first, second) in enumerate(strips):
        start, count = sum(map(len, vertices)), len(first)
        vertices += [first, second]
        turned = index == len(strips) - 1  # the far end is seen from the other side
        for a in range(start, start + count - 1):
            pair = [(a, a + 1, a + count + 1), (a, a + count + 1, a + count)]
            faces += [(i, k, j) for i, j, k in pair] if turned else pair
    points, triangles = np.concatenate(vertices), np.array(faces, dtype=np.int64)
    i, j, k = points[triangles].transpose(1, 0, 2)
    if np.sum(np.cross(i, j) * k) < 0:  # six times the volume: all of it was inside out
        triangles = triangles[:, ::-1]
    return Mesh(name, points, triangles)


def volume(primitive: Primitive) -> float:
    """Cubic metres."""
    if primitive.kind == "box":
        return 8 * math.prod(primitive.size)
    radius, half_length = primitive.size
    ends = 4 / 3 * radius if primitive.kind == "capsule" else 0.0
    return math.pi * radius**2 * (2 * half_length + ends)


def bounding_box(primitives: Sequence[Primitive]) -> tuple[Vector, Vector]:
    """Exact axis-aligned bounds of a set of primitives."""
    lows, highs = [], []
    for primitive in primitives:
        rotation = quat_to_matrix(primitive.quat)
        if primitive.kind == "box":
            extent = np.abs(rotation) @ np.array(primitive.size)
        else:
            radius, half_length = primitive.size
            axis = rotation[:, 2]
            side = radius * np.sqrt(np.maximum(0.0, 1 - axis**2)) if primitive.kind == "cylinder" else radius
            extent = np.abs(axis) * half_length + side
        lows.append(np.array(primitive.pos) - extent)
        highs.append(np.array(primitive.pos) + extent)
    return np.min(lows, axis=0), np.max(highs, axis=0)


def quat_to_matrix(quat: Sequence[float] | Vector) -> Vector:
    """Rotation matrix of a quaternion (w, x, y, z)."""
    w, x, y, z = (float(value) for value in quat)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )
