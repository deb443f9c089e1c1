"""Mugs: a slanted round wall of boxes around a hollow, and a handle of three boxes that two fingers close on."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from libero_runtime.assets.facts import BodyFacts, ObjectFacts
from libero_runtime.assets.shapes import Mesh, Paint, Parts, Primitive, Profile, Visual, box, lathe, tube
from libero_runtime.assets.tableware import floor_box, round_wall

_NUM_WALL_BOXES = 12
_FLOOR = 0.006  # thickness of the bottom
_HANDLE_HALF_WIDTH = 0.006  # fingers that close along y hold this


@dataclass(frozen=True)
class _Mug:
    """A cup that widens to its belly and is nearly straight above, with a handle along the x axis.

    `handle_side` is the sign of x on which the handle is, `foot_radius` the outer radius at the bottom, `belly` outer
    radius and height above the bottom where the straight wall begins, `handle_z` the lower and upper height of the
    handle as fractions of the mug's height. The rest follows from the bounding box.
    """

    body: BodyFacts
    handle_side: int
    foot_radius: float
    belly: tuple[float, float]
    thickness: float
    handle_z: tuple[float, float] = (0.22, 0.82)

    @property
    def rim_radius(self) -> float:
        return float(self.body.half[1])

    @property
    def axis(self) -> tuple[float, float]:
        """(x, y) of the cone's axis: the rim touches the side of the bounding box that has no handle."""
        low, high = self.body.bounds
        x = high[0] - self.rim_radius if self.handle_side < 0 else low[0] + self.rim_radius
        return float(x), float(self.body.center[1])

    @property
    def span(self) -> tuple[float, float]:
        """Lowest and highest z of the mug."""
        low, high = self.body.bounds
        return float(low[2]), float(high[2])

    def outline(self) -> Profile:
        """The outer surface as (radius, z), from the foot to the rim."""
        bottom, top = self.span
        return [(self.foot_radius, bottom), (self.belly[0], bottom + self.belly[1]), (self.rim_radius, top)]

    def radius_at(self, z: float) -> float:
        radii, heights = zip(*self.outline(), strict=True)
        return float(np.interp(z, heights, radii))

    def rounded(self, z0: float, z1: float, *, offset: float = 0.0) -> Profile:
        """The outer surface between two heights with the belly's edge smoothed, moved outwards by `offset`."""
        around = (-0.008, 0.0, 0.008)
        return [
            (sum(self.radius_at(z + step) for step in around) / len(around) + offset, z)
            for z in np.linspace(z0, z1, 9).tolist()
        ]

    @property
    def handle_heights(self) -> tuple[float, float]:
        bottom, top = self.span
        low, high = (bottom + fraction * (top - bottom) for fraction in self.handle_z)
        return low, high

    @property
    def handle_end(self) -> float:
        """x of the handle's outer face."""
        return float(self.body.bounds[0 if self.handle_side < 0 else 1][0])

    def collision(self) -> tuple[Primitive, ...]:
        bottom, _ = self.span
        x, y = self.axis
        corner = 1 / math.cos(math.pi / _NUM_WALL_BOXES)  # flat sides, not corners, touch the bounding box
        foot, *rest = [(radius * corner, z) for radius, z in self.outline()]
        outer = [(foot[0], bottom + 0.0006), *rest]
        walls = round_wall(outer, self.thickness, self.body, num_boxes=_NUM_WALL_BOXES, center=(x, y))
        floor = floor_box(self.body, self.foot_radius, bottom + _FLOOR, center=(x, y))
        low, high = self.handle_heights
        end, side = self.handle_end, self.handle_side

        def bar(inner: float, outer_x: float, z0: float, z1: float) -> Primitive:
            """A box of the handle's width between two x and two z."""
            x0, x1 = sorted((inner, outer_x))
            return box((x0, y - _HANDLE_HALF_WIDTH, z0), (x1, y + _HANDLE_HALF_WIDTH, z1))

        grip = bar(end - side * 0.010, end, low, high)
        arms = [
            bar(x + side * (self.radius_at(z) - 0.003), end - side * 0.010, z - 0.005, z + 0.005)
            for z in (low + 0.005, high - 0.005)
        ]
        return (floor, *walls, grip, *arms)

    def cup(self, name: str, *, lip: float = 0.0016) -> Mesh:
        """The turned cup with a rounded foot and rim."""
        bottom, top = self.span
        rim, inner = self.rim_radius, self.thickness
        floor = bottom + _FLOOR
        inside = [(radius, max(z, floor + 0.002)) for radius, z in self.rounded(floor, top - lip, offset=-inner)]
        return self.turned(
            name,
            [
                (0.0, bottom),
                (self.foot_radius - 0.002, bottom),
                *self.rounded(bottom + 0.002, top - lip),
                (rim - 0.4 * inner, top),
                *reversed(inside),
                (0.0, floor),
            ],
        )

    def turned(self, name: str, profile: Profile) -> Mesh:
        return lathe(name, profile, center=(*self.axis, 0.0), num_sides=32)

    def band(self, name: str, z0: float, z1: float, *, raised: float = 0.0004) -> Mesh:
        """A closed ring that stands proud of the cup's outside between two heights."""
        outside = self.rounded(z0, z1, offset=raised)
        return self.turned(name, [*outside, (outside[-1][0] - 0.0015, z1), (outside[0][0] - 0.0015, z0), outside[0]])

    def handle(self, name: str, *, radius: float = 0.0055) -> Mesh:
        """A tube in the shape of an ear through the three boxes of the handle."""
        low, high = self.handle_heights
        x, y = self.axis
        middle, half = (low + high) / 2, (high - low) / 2 - radius
        path = []
        for step in range(13):
            angle = math.pi * (step / 12 - 0.5)
            z = middle + half * math.sin(angle)
            root = x + self.handle_side * (self.radius_at(z) - 0.003)
            reach = self.handle_end - self.handle_side * radius - root
            # flatter than an ellipse: a handle's grip is nearly straight
            path.append((root + reach * math.cos(angle) ** 0.55, y, z))
        return tube(name, path, radius)


def _parts(mug: _Mug, visuals: tuple[Visual, ...]) -> dict[str, Parts]:
    return {"object": Parts(mug.collision(), visuals)}


def porcelain_mug(facts: ObjectFacts) -> dict[str, Parts]:
    """A plain white porcelain mug."""
    mug = _Mug(facts.body("object"), handle_side=-1, foot_radius=0.0270, belly=(0.0445, 0.040), thickness=0.0050)
    white = Paint((0.90, 0.90, 0.89), emission=0.35, specular=0.6, shininess=0.7)
    return _parts(mug, (Visual(mug.cup("cup"), white), Visual(mug.handle("handle"), white)))


def white_yellow_mug(facts: ObjectFacts) -> dict[str, Parts]:
    """White inside and above, yellow below and on the handle."""
    mug = _Mug(facts.body("object"), handle_side=1, foot_radius=0.0320, belly=(0.0465, 0.030), thickness=0.0070)
    white = Paint((0.90, 0.89, 0.86), emission=0.35, specular=0.5, shininess=0.6)
    yellow = Paint((0.93, 0.72, 0.16), emission=0.25, specular=0.4, shininess=0.5)
    bottom, top = mug.span
    return _parts(
        mug,
        (
            Visual(mug.cup("cup"), white),
            Visual(mug.band("glaze", bottom + 0.003, bottom + 0.60 * (top - bottom)), yellow),
            Visual(mug.handle("handle", radius=0.006), yellow),
        ),
    )


def red_coffee_mug(facts: ObjectFacts) -> dict[str, Parts]:
    """A tall red mug with a dark inside."""
    mug = _Mug(facts.body("object"), handle_side=1, foot_radius=0.0275, belly=(0.0400, 0.050), thickness=0.0060)
    red = Paint((0.74, 0.10, 0.09), emission=0.2, specular=0.5, shininess=0.6)
    coffee = Paint((0.20, 0.10, 0.05), specular=0.5, shininess=0.6)
    bottom, top = mug.span
    level = bottom + 0.60 * (top - bottom)
    radius = mug.radius_at(level) - mug.thickness + 0.0005
    surface = mug.turned("coffee", [(0.0, level - 0.002), (radius, level - 0.002), (radius, level), (0.0, level)])
    return _parts(mug, (Visual(mug.cup("cup"), red), Visual(mug.handle("handle"), red), Visual(surface, coffee)))
