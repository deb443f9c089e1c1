"""Turn a stove's knob on or off with the wrist."""

import math

import numpy as np

from libero_runtime.expert.motion import CLOSE, OPEN, Array, preferred_axis, rotation_about_z
from libero_runtime.expert.skills.base import JointSkill
from libero_runtime.expert.world import Goal, World, once_per_step

_GRIP_SLAB_M = 0.010  # the part of the knob that sticks out at the top
_DEPTH_M = 0.012
_TOLERANCE_M = 0.010
_CLOSE_STEPS = 6
_TURN_AHEAD_RAD = 0.5
_MAX_TURN_STEPS = 30
_RISE_STEPS = 10


class TurnKnob(JointSkill):
    """Take the knob's grip between the fingers, turn it until the predicate holds, let go, rise."""

    def __init__(self, world: World, goal: Goal) -> None:
        super().__init__(world, goal, world.joint_names(goal[1])[0])
        self._sense = float(np.sign(self._low + self._high)) * float(np.sign(world.data.xaxis[self._joint][2]))
        if goal[0] == "turnoff":
            self._sense *= -1

    @once_per_step
    def _grip(self) -> tuple[Array, Array]:
        """Middle of the grip at the height to take it (3,), and the thin way across it (2,)."""
        points = self.world.part_points(self._body)
        top = float(points[:, 2].max())
        slab = points[points[:, 2] > top - _GRIP_SLAB_M]
        middle = (slab.min(axis=0) + slab.max(axis=0)) / 2
        angles = np.linspace(0.0, math.pi, 90, endpoint=False)
        directions = np.stack([np.cos(angles), np.sin(angles)], axis=1)
        widths = np.ptp(slab[:, :2] @ directions.T, axis=0)
        return np.array([*middle[:2], top - _DEPTH_M]), preferred_axis(directions[int(np.argmin(widths))])

    def update(self) -> None:
        done = self.world.holds(self.goal)
        if self.phase == "approach":
            if done:
                self.finished = True
            point, axis = self._grip()
            near = self.distance(point) < _TOLERANCE_M
            if near and self.turn_left(self.upright(axis)) < 0.15:
                self.num_attempts += 1
                self.enter("grasp")
        elif self.phase == "grasp":
            if self.phase_steps >= _CLOSE_STEPS:
                self.enter("turn")
        elif self.phase == "turn":
            if done or self.phase_steps > _MAX_TURN_STEPS:
                self.enter("rise")
        elif self.phase_steps > _RISE_STEPS:
            self.enter("approach")

    def move(self) -> Array:
        point, axis = self._grip()
        if self.phase == "approach":
            return self.come_down(point, self.upright(axis), tolerance=_TOLERANCE_M, without=(self.goal[1],))
        if self.phase == "grasp":
            return self.towards(point, self.upright(axis), CLOSE)
        hand = self.world.hand
        if self.phase == "turn":
            return self.towards(point, rotation_about_z(self._sense * _TURN_AHEAD_RAD) @ hand.mat, CLOSE)
        up = 0.05 if self.phase_steps > 4 else 0.0
        return self.towards(hand.pos + np.array([0.0, 0.0, up]), hand.mat, OPEN)
