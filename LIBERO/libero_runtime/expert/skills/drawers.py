"""Drawers are pulled open by the bar of their handle, or dragged open from on top of it, and pushed shut."""

from dataclasses import dataclass

import numpy as np

from libero_runtime.expert.motion import CLOSE, OPEN, Array, facing_hand, nearer_of_both, reaching_hand, upright_hand
from libero_runtime.expert.skills.base import ALIGNED_RAD, JointSkill
from libero_runtime.expert.world import Goal, World, once_per_step

_BAR_M = 0.012  # what reaches furthest out of a drawer, to this depth, is the bar of its handle
_PULL_DIP_RAD = 0.27
_DRAG_DIP_RAD = 0.70
_PUSH_DIP_RAD = 1.10  # steep: behind the hand is the arm, and what it must not meet
_STAND_OFF_M = 0.09
_PUSH_STAND_OFF_M = 0.06
_PULL_M = 0.06  # aim this far ahead of the hand
_ABOVE_BAR_M, _PRESS_M = 0.012, 0.03  # fingertips that drag
_PALM_BELOW_M = 0.09  # a palm that faces a bar reaches this far below it
_TOLERANCE_M, _TOLERANCE_Z_M = 0.014, 0.010
_MAX_CLOSE_STEPS = 14
_MAX_PULL_STEPS = 22
_OPEN_STEPS = 4
_STRAIGHT_RAD = 0.4
_BACK_M = 0.07
_FRONT_BOARD_M = 0.015
_OPENING_PLAY_M = 0.010
_FULLY_OPEN_M = 0.012  # this close to the end of its slide
# The hand as it is at an episode's start; what comes next need not unwind the wrist.
_UPRIGHT = upright_hand(np.array([0.0, 1.0]), 0.0)


@dataclass(frozen=True)
class Handle:
    """A drawer's handle, where it is now."""

    bar: Array  # (3,) middle of the bar
    out: Array  # (2,) horizontal unit vector along which the drawer opens
    thickness: float  # of the bar, vertically


class DrawerSkill(JointSkill):
    """What opening and closing share: where the drawer and its handle are."""

    def __init__(self, world: World, goal: Goal) -> None:
        region = world.region(goal[1])
        self.fixture, self._joint_name = str(region.parent), str(region.joint)
        super().__init__(world, goal, self._joint_name)
        self._open_end = float(self._low if abs(self._low) > abs(self._high) else self._high)

    @once_per_step
    def handle(self) -> Handle:
        """The handle, where it is now."""
        out = self.world.drawer_out(self._joint_name)
        points = self.world.part_points(self._body)
        along = points[:, :2] @ out
        bar = points[along > along.max() - _BAR_M]
        middle = (bar.min(axis=0) + bar.max(axis=0)) / 2
        middle[:2] += (along.max() - _BAR_M / 2 - float(middle[:2] @ out)) * out
        return Handle(bar=middle, out=out, thickness=float(np.ptp(bar[:, 2])))

    def opening(self) -> float:
        """How far the drawer is out."""
        return float(self.world.data.qpos[self._address]) * float(np.sign(self._open_end))

    def _straighten(self) -> Array:
        """Rise a little and turn the hand upright."""
        return self.towards(self.world.hand.pos + np.array([0.0, 0.0, 0.03]), _UPRIGHT, OPEN)

    def _near(self, target: Array) -> bool:
        """Whether the hand is at a position (3,): closely in height, less so along the bar and in depth."""
        error = target - self.world.hand.pos
        return float(np.hypot(error[0], error[1])) < _TOLERANCE_M and abs(float(error[2])) < _TOLERANCE_Z_M


class OpenDrawer(DrawerSkill):
    """Face the front, take the bar between fingers above and below it, pull, let go, back off.

    A bar too near the ground for that, or pulled in vain, is dragged by closed fingers that press on it from above.
    Opens as far as an object needs that is to go in; without one, as far as it goes.
    """

    def __init__(self, world: World, goal: Goal, *, for_object: str | None = None) -> None:
        super().__init__(world, goal)
        self._wanted = abs(self._open_end) - _FULLY_OPEN_M
        ground = float(world.pose(self.fixture).pos[2] + world.world_points(self.fixture)[:, 2].min())
        self._near_ground = float(self.handle().bar[2]) - _PALM_BELOW_M < ground
        self._drags, self._needed = self._near_ground, for_object is not None
        if for_object is not None:
            # An opening is as long as the drawer is out, less its front board.
            points = world.world_points(for_object)[:, :2] @ self.handle().out
            self._wanted = min(self._wanted, float(np.ptp(points)) + _FRONT_BOARD_M)

    @property
    def far_enough(self) -> bool:
        """Whether the drawer is open as far as it has to be."""
        return self.opening() > self._wanted - _OPENING_PLAY_M

    def update(self) -> None:
        handle = self.handle()
        if self.phase == "approach":
            if self.lined_up(self._stand_off(handle), self._hand_mat(handle)):
                self.enter("reach")
        elif self.phase == "reach":
            if self._near(self._hold(handle)):
                self.num_attempts += 1
                self.enter("grasp")
            elif self.phase_steps > 40:
                self.num_attempts += 1
                self.enter("back")
        elif self.phase == "grasp":
            if self.world.finger_gap < handle.thickness + 0.004 or self.phase_steps >= _MAX_CLOSE_STEPS:
                self.enter("pull")
        elif self.phase == "pull":
            lost = self.distance(self._hold(handle)) > 0.03
            if lost or self.opening() > self._wanted or self.phase_steps > _MAX_PULL_STEPS:
                self.enter("back")
        elif self.phase == "back":
            if (self.phase_steps > _OPEN_STEPS and self._backed_off(handle)) or self.phase_steps > _MAX_PULL_STEPS:
                self.enter("straighten")
        elif self.turn_left(_UPRIGHT) < _STRAIGHT_RAD:
            self.finished = self.far_enough if self._needed else self.world.holds(self.goal)
            self._drags = self._near_ground or not self._drags
            self.enter("approach")

    def move(self) -> Array:
        handle = self.handle()
        hand_mat = self._hand_mat(handle)
        out = np.array([*handle.out, 0.0])
        gripper = CLOSE if self._drags else OPEN
        if self.phase == "approach":
            target = self.over_obstacles(self._stand_off(handle), without=(self.fixture,))
            return self.towards(target, hand_mat, gripper)
        if self.phase == "reach":
            return self.towards(self._hold(handle), hand_mat, gripper)
        if self.phase == "grasp":
            return self.towards(handle.bar, hand_mat, CLOSE)
        if self.phase == "pull":
            press = _PRESS_M if self._drags else 0.0
            return self.towards(handle.bar + _PULL_M * out - np.array([0.0, 0.0, press]), hand_mat, CLOSE)
        hand = self.world.hand.pos
        if self.phase == "straighten":
            return self._straighten()
        moving = self.phase_steps > _OPEN_STEPS
        return self.towards(hand + (0.06 * out if moving else 0.0), hand_mat, OPEN)

    def _hand_mat(self, handle: Handle) -> Array:
        if self._drags:
            hand_mat = reaching_hand(-handle.out, _DRAG_DIP_RAD)
        else:
            hand_mat = facing_hand(-handle.out, _PULL_DIP_RAD)
        return nearer_of_both(hand_mat, self.world.hand.mat)

    def _hold(self, handle: Handle) -> Array:
        """Hand position (3,) to pull at: the bar between the fingers or under their tips."""
        above = handle.thickness / 2 + _ABOVE_BAR_M if self._drags else 0.0
        return np.asarray(handle.bar + np.array([0.0, 0.0, above]))

    def _stand_off(self, handle: Handle) -> Array:
        return self._hold(handle) - _STAND_OFF_M * self._hand_mat(handle)[:, 2]

    def _backed_off(self, handle: Handle) -> bool:
        return float((self.world.hand.pos - handle.bar)[:2] @ handle.out) > _BACK_M


class CloseDrawer(DrawerSkill):
    """Come down in front of the handle with a closed hand and push until the drawer is shut."""

    def update(self) -> None:
        handle = self.handle()
        if self.phase == "approach":
            if self.lined_up(self._stand_off(handle), self._hand_mat(handle), aligned=2 * ALIGNED_RAD):
                self.num_attempts += 1
                self.enter("push")
        elif self.phase == "push":
            across = np.array([-handle.out[1], handle.out[0], 0.0])
            astray = abs(float((self.world.hand.pos - handle.bar) @ across)) > 0.03
            if self.world.holds(self.goal) or astray or self.phase_steps > 60:
                self.enter("back")
        elif self.phase == "back":
            if self.phase_steps > 6:
                self.enter("straighten")
        elif self.turn_left(_UPRIGHT) < _STRAIGHT_RAD:
            self.finished = self.world.holds(self.goal)
            self.enter("approach")

    def move(self) -> Array:
        handle = self.handle()
        hand_mat = self._hand_mat(handle)
        out = np.array([*handle.out, 0.0])
        if self.phase == "approach":
            return self.come_down(self._stand_off(handle), hand_mat, tolerance=0.02, without=(), gripper=CLOSE)
        if self.phase == "push":
            return self.towards(handle.bar - _PULL_M * out, hand_mat, CLOSE)
        if self.phase == "straighten":
            return self._straighten()
        return self.towards(self.world.hand.pos + 0.05 * out, hand_mat, CLOSE)

    def _hand_mat(self, handle: Handle) -> Array:
        return nearer_of_both(reaching_hand(-handle.out, _PUSH_DIP_RAD), self.world.hand.mat)

    def _stand_off(self, handle: Handle) -> Array:
        return np.asarray(handle.bar + np.array([*(_PUSH_STAND_OFF_M * handle.out), 0.0]))
