"""Where a held object has to go for a predicate to hold."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from libero_runtime.expert.memory import once_per_step
from libero_runtime.expert.postures import is_tight
from libero_runtime.expert.world import ExpertError, Goal, Region, World

Array = NDArray[np.float64]

_SUPPORT_RADIUS_M = 0.025
_DROP_M = 0.02  # groceries are let go this far inside a container
_PLAY_M = 0.003
_INSIDE_M = 0.025  # from a drawer's end
_EDGE_M = 0.018
_PRESS_M = 0.010  # aim below the support: contact is what ends the way down


@dataclass(frozen=True)
class Placement:
    """A place for an object's origin."""

    position: Array  # (3,)
    tolerance: float  # sideways, in metres
    near: float  # obstacles closer to it than this are what the object is put in
    beside: tuple[str, ...] = ()  # what the way there leads up to and not over


def _height_below_origin(world: World, name: str) -> float:
    return -float(world.world_points(name)[:, 2].min())


def _share(world: World, goal: Goal) -> tuple[int, int]:
    """Position of this object among those that share its target, and their number."""
    sharing = [other for other in world.goals if other[0] == goal[0] and other[2:] == goal[2:]]
    return sharing.index(goal), len(sharing)


def _on_object(world: World, name: str, support: str) -> Placement:
    points = world.world_points(support)
    pose = world.pose(support)
    middle = points[np.hypot(points[:, 0], points[:, 1]) < _SUPPORT_RADIUS_M]
    top = pose.pos[2] + (float(middle[:, 2].max()) if len(middle) else 0.0)
    bottom = _height_below_origin(world, name)
    return Placement(
        position=np.array([*pose.pos[:2], top + bottom - _PRESS_M]),
        tolerance=0.020,
        near=0.03,
    )


def _out_of_the_way(world: World, region: Region, name: str) -> float:
    """How far from a drawer's middle an object must go in, to pass by the handles of the drawers above it."""
    front = world.front_above(region)
    if front is None or region.joint is None:
        return 0.0
    points, out = world.world_points(name), world.drawer_out(region.joint)
    reach = -float((points[:, :2] @ out).min())
    needed = front + reach + _PLAY_M - float(region.pose.pos[:2] @ out)
    return float(np.clip(needed, 0.0, region.half[:2] @ np.abs(out) - _INSIDE_M))


def _between_walls(world: World, name: str, position: Array) -> Array:
    """The middle (2,) between the walls on either side of a position (3,) in a compartment, along x and along y."""
    boxes = world.boxes(without=[name])
    boxes = boxes.where((boxes.low < position[2]) & (boxes.high > position[2]))
    extent = (np.abs(boxes.axes.transpose(0, 2, 1)) @ boxes.half[..., None])[..., 0]
    offset = boxes.center - position[:2]
    middle = position[:2].copy()
    for axis in range(2):
        level = np.abs(offset[:, 1 - axis]) < extent[:, 1 - axis]
        ahead, behind = level & (offset[:, axis] > 0), level & (offset[:, axis] < 0)
        if ahead.any() and behind.any():
            low = float((offset + extent)[behind, axis].max())
            middle[axis] += (low + float((offset - extent)[ahead, axis].min())) / 2
    return middle


def _in_region(world: World, goal: Goal) -> Placement:
    """Inside a basket, a drawer, a compartment: the middle of the region, next to what else belongs there."""
    name, region = goal[1], world.region(goal[2])
    index, number = _share(world, goal)
    position = region.pose.pos.copy()
    half = region.half
    wide = int(np.argmax(half[:2]))
    if number > 1:
        position[wide] += (index - (number - 1) / 2) * 0.9 * half[wide]
    points = world.world_points(name)
    if region.joint is None and is_tight(points, region):  # its own middle counts, not its origin
        middle = (points[:, :2].min(axis=0) + points[:, :2].max(axis=0)) / 2
        position[:2] = _between_walls(world, name, position) - middle
    floor = position[2] - half[2] + _height_below_origin(world, name)
    if region.joint is not None:
        position[:2] += _out_of_the_way(world, region, name) * world.drawer_out(region.joint)
    position[2] = max(floor, position[2] + half[2] - 0.01 - _DROP_M) if region.joint is None else floor - _PRESS_M
    return Placement(position=position, tolerance=0.015, near=0.03 if region.joint is None else 0.012)


def _free_stretch(world: World, goal: Goal, middle: Array, *, wide: int, half: float) -> tuple[float, float]:
    """Lowest and highest coordinate along axis `wide` for an object's origin in a region that several objects share.

    What stands in the region's way besides them, such as a stove's knob, is kept clear of.
    """
    sharing = [other[1] for other in world.goals if other[0] == goal[0] and other[2:] == goal[2:]]
    points = world.world_points(goal[1])
    reach, breadth = (float(np.abs(points[:, axis]).max()) for axis in (wide, 1 - wide))
    boxes = world.boxes(without=sharing)
    extent = np.abs(boxes.axes.transpose(0, 2, 1)) @ boxes.half[..., None]
    along, across = boxes.center[:, wide], boxes.center[:, 1 - wide]
    in_the_way = (boxes.high > middle[2] + 0.03) & (
        np.abs(across - middle[1 - wide]) < extent[:, 1 - wide, 0] + breadth
    )
    low, high = middle[wide] - half + _EDGE_M, middle[wide] + half - _EDGE_M
    for before in (in_the_way & (along < middle[wide])).nonzero()[0]:
        low = max(low, float(along[before] + extent[before, wide, 0]) + reach + _EDGE_M)
    for behind in (in_the_way & (along > middle[wide])).nonzero()[0]:
        high = min(high, float(along[behind] - extent[behind, wide, 0]) - reach - _EDGE_M)
    return (low, high) if low < high else (float(middle[wide]), float(middle[wide]))


def _on_region(world: World, goal: Goal) -> Placement:
    """On a burner, a cabinet's top, a rack, a place on the table."""
    name, region = goal[1], world.region(goal[2])
    index, number = _share(world, goal)
    position = region.pose.pos.copy()
    half = region.half
    wide = int(np.argmax(half[:2]))
    if number > 1:
        low, high = _free_stretch(world, goal, position, wide=wide, half=float(half[wide]))
        position[wide] = low + (high - low) * index / (number - 1)
    position[2] += _height_below_origin(world, name) - _PRESS_M
    near = 0.05 if region.parent is None else 0.02
    return Placement(position=position, tolerance=0.015, near=near)


@once_per_step
def placement(world: World, goal: Goal) -> Placement:
    """Where the object of an `in` or `on` predicate has to go."""
    if goal[0] == "on" and not world.is_region(goal[2]):
        return _on_object(world, goal[1], goal[2])
    if goal[0] == "on":
        return _on_region(world, goal)
    if goal[0] == "in" and world.is_region(goal[2]):
        return _in_region(world, goal)
    raise ExpertError(f"no place is known for the predicate {goal}")
