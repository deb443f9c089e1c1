"""From the goal of a BDDL file to the next thing to do."""

import numpy as np

from libero_runtime.expert.placements import is_roofed
from libero_runtime.expert.skills.base import Skill
from libero_runtime.expert.skills.door import PullDoor, PushDoor
from libero_runtime.expert.skills.drawers import CloseDrawer, OpenDrawer
from libero_runtime.expert.skills.knob import TurnKnob
from libero_runtime.expert.skills.microwave import PutInside
from libero_runtime.expert.skills.pick_place import PickPlace, PutThrough, Slide
from libero_runtime.expert.world import ExpertError, Goal, World

_ORDER = {"open": 0, "turnon": 0, "turnoff": 0, "close": 0, "on": 1, "in": 1}
_WIDEST_M, _FLAT_M = 0.08, 0.03


def next_skill(world: World) -> Skill | None:
    """The skill for the first predicate that does not hold yet; None when all hold."""
    unknown = [goal for goal in world.goals if goal[0] not in _ORDER]
    if unknown:
        raise ExpertError(f"the scripted expert knows the predicates {sorted(_ORDER)}; the goal has {unknown}")
    missing = sorted((goal for goal in world.goals if not world.holds(goal)), key=lambda goal: _rank(world, goal))
    if not missing:
        return None
    return _skill_for(world, missing[0], last=len(missing) == 1)


def _rank(world: World, goal: Goal) -> int:
    """When a predicate's turn is: what is filled is fully opened, or closed, only after that."""
    filled = [name for other in world.goals if other[0] == "in" for name in (other[2], world.region(other[2]).parent)]
    return 2 if goal[0] in ("open", "close") and goal[1] in filled else _ORDER[goal[0]]


def _skill_for(world: World, goal: Goal, *, last: bool) -> Skill:
    kind = goal[0]
    if kind in ("turnon", "turnoff"):
        return TurnKnob(world, goal)
    if kind == "open":
        if world.is_region(goal[1]):
            return OpenDrawer(world, goal)
        pull = PullDoor(world, goal)
        return PushDoor(world, goal) if pull.ajar else pull
    if kind == "close":
        return CloseDrawer(world, goal) if world.is_region(goal[1]) else PushDoor(world, goal)
    if kind == "in" and world.region(goal[2]).joint is not None:
        opening = OpenDrawer(world, ("open", goal[2]), for_object=goal[1])
        if not opening.far_enough:
            return opening
    elif kind == "in" and _has_a_door(world, goal[2]):
        return PutInside(world, goal)
    elif kind == "in" and is_roofed(world, world.region(goal[2])):
        return PutThrough(world, goal, last=last)
    if kind == "on" and world.is_region(goal[2]) and _lies_flat(world, goal[1]):
        return Slide(world, goal, last=last)
    return PickPlace(world, goal, last=last)


def _has_a_door(world: World, region: str) -> bool:
    """Whether a region is inside of something with a hinged door: it is reached from the front, not from above."""
    parent = world.region(region).parent
    return parent is not None and parent in world.fixtures and len(world.joint_names(parent)) > 0


def _lies_flat(world: World, name: str) -> bool:
    """Whether an object is wide and flat, such as a plate, which is pushed over the table."""
    points = world.world_points(name)
    wide = float(np.ptp(points[:, :2], axis=0).min()) > _WIDEST_M
    return wide and float(np.ptp(points[:, 2])) < _FLAT_M
