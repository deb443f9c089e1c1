"""How to take a bowl that stands in an open drawer: the hand has little room between the bowl and the walls."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from libero_runtime.expert.grasps import Grasp
from libero_runtime.expert.motion import preferred_axis
from libero_runtime.expert.world import World

Array = NDArray[np.float64]

DRAWER_HOVER_M = 0.05  # start to close this far above the grasp
_DEPTH_M = 0.010  # the finger pads' middle below the rim
_FINGER_REACH_M = 0.046  # from between the half-closed fingers to the outer side of one
_FINGER_HALF_WIDTH_M = 0.011
_WALL_GAP_M = 0.003
_BACK_M = 0.016  # at its back, this much of an open drawer stays below the cabinet's top
# Sides of the bowl to take it by, in order of preference: towards the robot, where the arm is not stretched.
_ANGLES_DEG = (135.0, 112.5)
_WORTH_ANOTHER_SIDE_M = 0.003


@dataclass(frozen=True)
class Drawer:
    """The inside of the drawer that an object is in."""

    fixture: str
    center: Array  # (3,)
    side: Array  # (2,) horizontal unit vector across the drawer, away from the robot
    out: Array  # (2,) horizontal unit vector along which the drawer opens
    half: Array  # (2,) half extents of the inside along `side` and `out`
    top: float  # height of its walls' upper edge


def drawer_around(world: World, position: Array) -> Drawer | None:
    """The drawer that an object's origin (3,) is in; None when it is in none."""
    for fixture in world.fixtures:
        for name in world.regions_of(fixture):
            region = world.region(name)
            if region.joint is None:
                continue
            # The region's box stands on its side: its local z runs across the drawer, y along it, x up.
            local = region.pose.mat.T @ (position - region.pose.pos)
            # A bowl's origin is at its bottom, which rests at the lower end of the region.
            inside = bool(np.all(np.abs(local) < region.size + np.array([0.02, 0.0, 0.0])))
            if inside and position[2] < region.pose.pos[2]:
                across, along = region.pose.mat[:2, 2], -region.pose.mat[:2, 1]
                return Drawer(
                    fixture=fixture,
                    center=region.pose.pos,
                    side=across if across[0] > 0 else -across,
                    out=along,
                    half=region.size[[2, 1]],
                    top=float(region.pose.pos[2] + region.size[0]),
                )
    return None


def drawer_grasp(points: Array, position: Array, drawer: Drawer) -> Grasp:
    """The grasp of a bowl's rim that fits the hand into a drawer. points: (P, 3) about the bowl's origin (3,).

    Where the outer finger would meet a wall even half closed, the hand stays closer to the bowl's middle: closing it
    then pulls the rim in between the fingers.
    """
    top = float(points[:, 2].max())
    rim = points[points[:, 2] > top - 0.004]
    rim_radius = float(np.median(np.hypot(rim[:, 0], rim[:, 1])))
    offset = position[:2] - drawer.center[:2]
    across, along = float(offset @ drawer.side), float(offset @ drawer.out)
    half_across, half_along = drawer.half - _WALL_GAP_M
    best_radius, best_direction = -math.inf, drawer.side
    for degrees in _ANGLES_DEG:
        direction = np.array([math.cos(math.radians(degrees)), math.sin(math.radians(degrees))])
        sideways, outwards = float(direction @ drawer.side), float(direction @ drawer.out)
        room_across = half_across - math.copysign(across, sideways * across)
        room_along = half_along - along if outwards > 0 else half_along - _BACK_M + along
        radius = min(
            rim_radius,
            (room_across - _FINGER_HALF_WIDTH_M * abs(outwards)) / abs(sideways) - _FINGER_REACH_M,
            (room_along - _FINGER_HALF_WIDTH_M * abs(sideways)) / max(abs(outwards), 1e-6) - _FINGER_REACH_M,
        )
        if radius > best_radius + _WORTH_ANOTHER_SIDE_M:
            best_radius, best_direction = radius, direction
    return Grasp(
        offset=np.array([*(best_radius * best_direction), top - _DEPTH_M]),
        finger_axis=preferred_axis(best_direction),
        width=0.005,
        on_wall=True,
    )
