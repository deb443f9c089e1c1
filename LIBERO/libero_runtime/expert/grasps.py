"""Where to take an object from above, found in its collision geometry.

Across the whole object where it is narrow enough; by a wall (a bowl's rim, a mug's, a handle) with one finger on either
side of it; or by a bowl's rim inside a drawer. All coordinates are along the world's axes about the object's origin, in
metres.

P points of an object, L of them at the height of the finger pads, K angles of the hand, S sideways shifts of it.
"""

import math
from dataclasses import dataclass

import numpy as np

from libero_runtime.expert.motion import Array, preferred_axis
from libero_runtime.expert.world import Boxes, World

# The hand, measured from between its finger pads.
_OPEN_HALF_M = 0.036  # to the inner side of an open finger, with some play
_FINGER_OUTER_M = 0.058  # to the outer side of an open finger
_FINGER_HALF_WIDTH_M = 0.011
_PAD_BELOW_M = 0.012
_PALM_ABOVE_M, _PALM_TOP_M = 0.029, 0.125
_PALM_HALF_LENGTH_M = 0.100
_PALM_HALF_WIDTH_M = 0.032

_PAD_HALF_WIDTH_M = 0.009
_WIDEST_SPAN_M = 0.068
_THICKEST_WALL_M = 0.030
_SPAN_DEPTH_M = 0.026  # pads' middle below the object's top
_RIM_DEPTHS_M = (0.017, 0.010, 0.004, -0.002)
_LOWEST_M = 0.014  # pads' middle above the object's bottom
_SPAN_ANGLES_RAD = np.linspace(0.0, math.pi, 60, endpoint=False)
_RIM_ANGLES = 16
_TURN_COST_M = 0.040  # a quarter turn of the wrist counts as much as so much more width
_SLANT_M = 0.018  # a wall's slant adds less than this to its thickness
_RIM_M = 0.003  # at least so much of a wall is looked at
_WALL_TURN_COST_M = 0.04  # per radian away from the preferred side
_SHIFTS_M = (0.0, -0.015, 0.015, -0.025, 0.025)  # along what is held, away from its middle
_SHIFT_COST = 0.5
_BLOCKED_COST_M = 0.1
_FOREARM_M, _FOREARM_RADIUS_M, _FOREARM_ABOVE_M = 0.35, 0.085, 0.15  # behind the hand, towards the robot
_FOREARM_COST_M = 0.15  # more than taking a bowl by its other side
_PASSED_M = 0.02  # a palm that is so far into what hangs over does not get by
_PRESSED_COST_M = 0.015  # of a palm that meets something, besides how deep

# A bowl in an open drawer, where the hand has little room between the bowl and the walls.
DRAWER_HOVER_M = 0.05  # start to close this far above the grasp
_DRAWER_DEPTH_M = 0.010  # the finger pads' middle below the rim
_FINGER_REACH_M = 0.046  # from between the half-closed fingers to the outer side of one
_DRAWER_GAP_M = 0.003
_DRAWER_BACK_M = 0.016  # at its back, this much of an open drawer stays below the cabinet's top
# Sides of the bowl to take it by, in order of preference: towards the robot, where the arm is not stretched.
_ANGLES_DEG = (135.0, 112.5)
_WORTH_ANOTHER_SIDE_M = 0.003


@dataclass(frozen=True)
class Grasp:
    """Hand position relative to an object's origin, the line along which the fingers close, and what they close on."""

    offset: Array  # (3,)
    finger_axis: Array  # (2,) unit vector
    width: float  # of what is between the fingers
    on_wall: bool


def _turn_cost(axis: Array) -> float:
    """Cost of turning the wrist from fingers that open along y."""
    return _TURN_COST_M * math.acos(min(1.0, abs(float(axis[1])))) / (math.pi / 2)


def _blocked_cost(center: Array, axis: Array, height: float, neighbours: Boxes, robot: Array) -> float:
    """Cost of what else is where the open hand or the forearm would be; `neighbours` reach up to the pads."""
    fingers = center + np.outer([-1, 1], 0.5 * (_OPEN_HALF_M + _FINGER_OUTER_M) * axis)
    palm = center + np.outer(np.linspace(-_PALM_HALF_LENGTH_M, _PALM_HALF_LENGTH_M, 9), axis)
    blocked = bool((neighbours.distances(fingers) < _FINGER_HALF_WIDTH_M + 0.003).any())
    hanging = neighbours.low > height + _PALM_TOP_M  # no more than passed on the way down
    under_palm = (neighbours.distances(palm) < _PALM_HALF_WIDTH_M).any(axis=0) & ~hanging
    passed = float(np.min(neighbours.where(hanging).distances(palm[1:-1]), initial=np.inf))
    overlap = float(np.max(neighbours.high[under_palm], initial=-1.0)) - (height + _PALM_ABOVE_M)
    pressed = min(_BLOCKED_COST_M, _PRESSED_COST_M + overlap) if overlap > 0 else 0.0
    pressed += _BLOCKED_COST_M * float(np.clip((_PALM_HALF_WIDTH_M - passed) / _PASSED_M, 0.0, 1.0))
    way = (robot - center) / max(1e-6, float(np.hypot(*(robot - center))))
    forearm = center + np.outer(np.linspace(0.0, _FOREARM_M, 8), way)
    high = neighbours.where(neighbours.high > height + _FOREARM_ABOVE_M)
    meets = bool((high.distances(forearm) < _FOREARM_RADIUS_M).any())
    return _BLOCKED_COST_M * blocked + pressed + _FOREARM_COST_M * meets


def _fingers_are_free(along: Array, across: Array, middle: float) -> bool:
    """Whether none of the points above the pads' lower edge is where an open finger would be."""
    away = np.abs(along - middle)
    in_the_way = (np.abs(across) < _FINGER_HALF_WIDTH_M) & (away > _OPEN_HALF_M) & (away < _FINGER_OUTER_M)
    return not bool(in_the_way.any())


def span_grasp(points: Array, neighbours: Boxes, *, robot: Array) -> tuple[float, Grasp] | None:
    """The best grasp across the whole object and its cost; None where it is too wide for the hand.

    points: (P, 3).
    """
    bottom, top = float(points[:, 2].min()), float(points[:, 2].max())
    height = max(top - _SPAN_DEPTH_M, bottom + _LOWEST_M)
    level = points[np.abs(points[:, 2] - height) < 0.010]
    if len(level) == 0:
        return None
    center = (level[:, :2].min(axis=0) + level[:, :2].max(axis=0)) / 2
    above = points[points[:, 2] > height - _PAD_BELOW_M]
    tall = neighbours.where(neighbours.high > height - _PAD_BELOW_M)
    offsets_L2 = level[:, :2] - center
    axes = [preferred_axis(np.array([math.cos(angle), math.sin(angle)])) for angle in _SPAN_ANGLES_RAD]
    normals = [np.array([-axis[1], axis[0]]) for axis in axes]
    along_KL = np.stack([offsets_L2 @ axis for axis in axes])
    across_KL = np.stack([offsets_L2 @ normal for normal in normals])
    lowest_KS, highest_KS = _held(along_KL, across_KL)
    spread_K, reach_K = np.ptp(along_KL, axis=1).tolist(), np.abs(across_KL).max(axis=1).tolist()
    best: tuple[float, Grasp] | None = None
    # Only what is narrow enough is looked at further, in the order of angles and shifts.
    for k, s in np.argwhere((highest_KS - lowest_KS <= _WIDEST_SPAN_M) & (highest_KS >= lowest_KS)).tolist():
        axis, normal, shift = axes[k], normals[k], _SHIFTS_M[s]
        cost = spread_K[k] + _turn_cost(axis) + _SHIFT_COST * abs(shift)
        if (shift and reach_K[k] < abs(shift) + _PAD_HALF_WIDTH_M) or (best is not None and cost > best[0] - 1e-6):
            continue
        low, high = float(lowest_KS[k, s]), float(highest_KS[k, s])
        spot = center + (high + low) / 2 * axis + shift * normal
        if not _fingers_are_free((above[:, :2] - spot) @ axis, (above[:, :2] - spot) @ normal, 0.0):
            continue
        cost += _blocked_cost(spot, axis, height, tall, robot)
        if best is None or cost < best[0] - 1e-6:
            best = cost, Grasp(np.array([*spot, height]), axis, high - low, on_wall=False)
    return best


def _held(along_KL: Array, across_KL: Array) -> tuple[Array, Array]:
    """Lowest and highest coordinate (K, S) of what is between the fingers, for each angle and shift.

    Where nothing is, the lowest is above the highest.
    """
    lowest, highest = [], []
    for shift in _SHIFTS_M:
        held_KL = np.abs(across_KL - shift) < _PAD_HALF_WIDTH_M
        lowest.append(np.where(held_KL, along_KL, np.inf).min(axis=1))
        highest.append(np.where(held_KL, along_KL, -np.inf).max(axis=1))
    return np.stack(lowest, axis=1), np.stack(highest, axis=1)


def wall_grasp(points: Array, neighbours: Boxes, *, prefer: Array, robot: Array) -> tuple[float, Grasp] | None:
    """The best grasp of an outer wall near the object's top and its cost; `prefer` (2,) is the side to take it by.

    As deep as elsewhere if that is possible, less deep where the inner finger would meet a plate's floor.
    """
    for depth in _RIM_DEPTHS_M:
        found = _wall_grasp_at(points, neighbours, prefer=prefer, robot=robot, depth=depth)
        if found is not None:
            return found
    return None


def _wall_grasp_at(
    points: Array, neighbours: Boxes, *, prefer: Array, robot: Array, depth: float
) -> tuple[float, Grasp] | None:
    top = float(points[:, 2].max())
    height = top - depth
    above = points[points[:, 2] > height - _PAD_BELOW_M]
    tall = neighbours.where(neighbours.high > height - _PAD_BELOW_M)
    level = points[points[:, 2] > min(height + 0.001, top - _RIM_M)]
    center = (level[:, :2].min(axis=0) + level[:, :2].max(axis=0)) / 2
    level_offsets, above_offsets = level[:, :2] - center, above[:, :2] - center
    best: tuple[float, Grasp] | None = None
    start = math.atan2(float(prefer[1]), float(prefer[0]))
    for index in range(_RIM_ANGLES):
        turn = 2 * math.pi * ((index + 1) // 2) / _RIM_ANGLES * (1 if index % 2 else -1)
        direction = np.array([math.cos(start + turn), math.sin(start + turn)])
        normal = np.array([-direction[1], direction[0]])
        across, along = level_offsets @ normal, level_offsets @ direction
        side = np.sort(along[(np.abs(across) < 0.008) & (along > 0)])
        if len(side) == 0:
            continue
        # The outermost wall: inwards from the outside to the first gap that a finger fits into.
        gaps = np.flatnonzero(np.diff(side) > 0.016)
        inner, outer = float(side[gaps[-1] + 1] if len(gaps) else side[0]), float(side[-1])
        if outer - inner > _THICKEST_WALL_M:
            continue
        middle = (inner + outer) / 2
        along_above, across_above = above_offsets @ direction, above_offsets @ normal
        if not _fingers_are_free(along_above, across_above, middle):
            continue
        spot = center + middle * direction
        at_pads = along_above[np.abs(across_above) < _PAD_HALF_WIDTH_M]
        between = at_pads[np.abs(at_pads - middle) < _OPEN_HALF_M]
        crowded = len(between) > 0 and float(np.ptp(between)) > outer - inner + _SLANT_M  # a handle, say
        cost = (
            _BLOCKED_COST_M * crowded
            + _WALL_TURN_COST_M * abs(turn)
            + _blocked_cost(spot, direction, height, tall, robot)
        )
        if best is None or cost < best[0] - 1e-6:
            grasp = Grasp(np.array([*spot, height]), preferred_axis(direction), outer - inner, on_wall=True)
            best = cost, grasp
    return best


def choose_grasp(points: Array, neighbours: Boxes, *, prefer: Array, robot: Array) -> Grasp | None:
    """Across the object where that is possible without touching others, else by a wall; None where neither is.

    points: (P, 3) on the object; prefer: (2,) side of a wall to take it by; robot: (2,) where the arm comes from.
    """
    span = span_grasp(points, neighbours, robot=robot)
    if span is not None and span[0] < _BLOCKED_COST_M:
        return span[1]
    wall = wall_grasp(points, neighbours, prefer=prefer, robot=robot)
    candidates = [found for found in (span, wall) if found is not None]
    return min(candidates, key=lambda found: found[0])[1] if candidates else None


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
    for region in world.drawers():
        # The region's box stands on its side: its local z runs across the drawer, y along it, x up.
        local = region.pose.mat.T @ (position - region.pose.pos)
        # A bowl's origin is at its bottom, which rests at the lower end of the region.
        inside = bool(np.all(np.abs(local) < region.size + np.array([0.02, 0.0, 0.0])))
        if inside and position[2] < region.pose.pos[2]:
            across, along = region.pose.mat[:2, 2], -region.pose.mat[:2, 1]
            return Drawer(
                fixture=str(region.parent),
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
    half_across, half_along = drawer.half - _DRAWER_GAP_M
    best_radius, best_direction = -math.inf, drawer.side
    for degrees in _ANGLES_DEG:
        direction = np.array([math.cos(math.radians(degrees)), math.sin(math.radians(degrees))])
        sideways, outwards = float(direction @ drawer.side), float(direction @ drawer.out)
        room_across = half_across - math.copysign(across, sideways * across)
        room_along = half_along - along if outwards > 0 else half_along - _DRAWER_BACK_M + along
        radius = min(
            rim_radius,
            (room_across - _FINGER_HALF_WIDTH_M * abs(outwards)) / abs(sideways) - _FINGER_REACH_M,
            (room_along - _FINGER_HALF_WIDTH_M * abs(sideways)) / max(abs(outwards), 1e-6) - _FINGER_REACH_M,
        )
        if radius > best_radius + _WORTH_ANOTHER_SIDE_M:
            best_radius, best_direction = radius, direction
    return Grasp(
        offset=np.array([*(best_radius * best_direction), top - _DRAWER_DEPTH_M]),
        finger_axis=preferred_axis(best_direction),
        width=0.005,
        on_wall=True,
    )
