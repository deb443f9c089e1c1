"""How the hand holds an object at a place that it does not get into as it was taken: turned, laid down or tilted."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from libero_runtime.expert.grasps import Grasp
from libero_runtime.expert.motion import (
    facing_hand,
    nearer_of_both,
    preferred_axis,
    reaching_hand,
    rotation_about_z,
    upright_hand,
)
from libero_runtime.expert.world import Goal, Region, World

Array = NDArray[np.float64]

_ENTER_DIP_RAD = 0.80  # flat enough for a low shelf, steep enough for the palm to stay above the ground
_LAY_DIP_RAD = 0.55
_BESIDE_M = 0.08  # held so far from its middle, an object reaches into a shelf ahead of the hand
_TIGHT_M, _SQUARE_M = 0.04, 0.01
_ROOF_RADIUS_M = 0.015


def inwards(world: World, fixture: str) -> Array:
    """Horizontal unit vector (2,) into a fixture's opening: along its own y axis, which LIBERO's front faces."""
    axis = world.pose(fixture).mat[:2, 1]
    direction: Array = axis / float(np.linalg.norm(axis))
    return direction


def is_roofed(world: World, region: Region) -> bool:
    """Whether something of a fixture is above its region, so that it is reached from the front, as a shelf is."""
    if region.parent is None or region.parent not in world.fixtures or region.joint is not None:
        return False
    points: Array = world.world_points(region.parent) + world.pose(region.parent).pos - region.pose.pos
    return bool((points[np.hypot(points[:, 0], points[:, 1]) < _ROOF_RADIUS_M, 2] > 0).any())


def posture(world: World, goal: Goal, grasp: Grasp) -> Array | None:
    """Orientation (3, 3) of the hand at an object's place; None where the object goes there as it is taken."""
    if goal[0] != "in":
        return None
    region, points = world.region(goal[2]), world.world_points(goal[1])
    present = upright_hand(grasp.finger_axis, 0.0)
    if region.parent is not None and is_roofed(world, region):
        way = inwards(world, region.parent)
        if float(np.hypot(*grasp.offset[:2])) < _BESIDE_M:
            return nearer_of_both(facing_hand(way, _ENTER_DIP_RAD), present)
        ahead = -grasp.offset[:2]
        turn = math.atan2(ahead[0] * way[1] - ahead[1] * way[0], float(ahead @ way))
        return upright_hand(rotation_about_z(turn)[:2, :2] @ grasp.finger_axis, 0.0)
    if grasp.on_wall:
        return None
    if region.joint is not None and -float(points[:, 2].min()) > 2 * region.half[2]:
        away = np.array([grasp.finger_axis[1], -grasp.finger_axis[0]])
        return nearer_of_both(reaching_hand(away, _LAY_DIP_RAD), present)
    if region.joint is None and is_tight(points, region):
        half = region.half[:2]
        square = float(np.ptp(half)) < _SQUARE_M
        narrow = int(np.argmax(np.abs(grasp.finger_axis)) if square else np.argmin(half))
        return upright_hand(preferred_axis(np.eye(2)[narrow]), 0.0)
    return None


def is_tight(points: Array, region: Region) -> bool:
    """Whether an object's points (P, 3), as it is turned now, leave little room in a region or none."""
    return bool((np.ptp(points[:, :2], axis=0) + _TIGHT_M > 2 * region.half[:2]).any())
