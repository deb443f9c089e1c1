"""Where a held object has to go for a predicate to hold, and how the hand holds it there."""

import math
from dataclasses import dataclass

import numpy as np

from libero_runtime.expert.grasps import Grasp
from libero_runtime.expert.motion import (
    Array,
    facing_hand,
    nearer_of_both,
    preferred_axis,
    reaching_hand,
    rotation_about_z,
    upright_hand,
)
from libero_runtime.expert.world import ExpertError, Goal, Region, World, once_per_step

_SUPPORT_RADIUS_M = 0.025
_DROP_M = 0.02  # groceries are let go this far inside a container
_PLAY_M = 0.003
_INSIDE_M = 0.025  # from a drawer's end
_EDGE_M = 0.018
_PRESS_M = 0.010  # aim below the support: contact is what ends the way down
# An object that does not get into its place as it was taken is turned, laid down or tilted.
_ENTER_DIP_RAD = 0.80  # flat enough for a low shelf, steep enough for the palm to stay above the ground
_LAY_DIP_RAD = 0.55
_BESIDE_M = 0.08  # held so far from its middle, an object reaches into a shelf ahead of the hand
_TIGHT_M, _SQUARE_M = 0.04, 0.01
_ROOF_RADIUS_M = 0.015


@dataclass(frozen=True)
class Placement:
    """A place for an object's origin."""

    position: Array  # (3,)
    tolerance: float  # sideways, in metres
    near: float  # obstacles closer to it than this are what the object is put in
    beside: tuple[str, ...] = ()  # what the way there leads up to and not over


def _height_below_origin(world: World, name: str) -> float:
    return -float(world.world_points(name)[:, 2].min())


def _sharing(world: World, goal: Goal) -> list[Goal]:
    """The goals that have the same target, this one among them."""
    return [other for other in world.goals if other[0] == goal[0] and other[2:] == goal[2:]]


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
    sharing = _sharing(world, goal)
    index, number = sharing.index(goal), len(sharing)
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
    sharing = [other[1] for other in _sharing(world, goal)]
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
    sharing = _sharing(world, goal)
    index, number = sharing.index(goal), len(sharing)
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


def inwards(world: World, fixture: str) -> Array:
    """Horizontal unit vector (2,) into a fixture's opening: along its own y axis, which LIBERO's front faces."""
    axis = world.pose(fixture).mat[:2, 1]
    return np.asarray(axis / float(np.linalg.norm(axis)))


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
