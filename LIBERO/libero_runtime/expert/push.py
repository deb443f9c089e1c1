"""Push a plate over the table: the closed hand inside its border, against the side that goes first.

Pushed from behind, a plate would have to be steered; from inside it follows. It also leaves the hand in the open when
there is no room behind the plate.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from libero_runtime.expert.motion import CLOSE, lean_at, upright_hand
from libero_runtime.expert.skill import Skill
from libero_runtime.expert.world import Goal, World

Array = NDArray[np.float64]

_TIP_M = 0.012  # of the closed fingers below the pads' middle
_PRESS_M = 0.008  # aim this far below the plate's floor while pushing
_MIDDLE_M = 0.02  # the plate's floor is looked for within this radius
_TOLERANCE_M = 0.012
_ASTRAY_M = 0.03
_AHEAD_M = 0.06
_RISE_STEPS = 8
_FINGER_AXIS = np.array([0.0, 1.0])


class Push(Skill):
    """Come down inside the border and push towards the goal until it is reached."""

    def __init__(self, world: World, goal: Goal) -> None:
        super().__init__(world)
        self.goal, self.name = goal, goal[1]
        points = world.world_points(self.name)
        middle = points[np.hypot(points[:, 0], points[:, 1]) < _MIDDLE_M]
        self._floor = float(middle[:, 2].max()) if len(middle) else 0.0
        self._direction = self._way()
        self.enter("approach")

    def _way(self) -> Array:
        """Unit vector (2,) from the object to its goal."""
        way = (self.world.region(self.goal[2]).pose.pos - self.world.pose(self.name).pos)[:2]
        length = float(np.linalg.norm(way))
        unit: Array = way / length if length > 0.02 else self._direction
        return unit

    def _inside(self, *, ahead: float, press: float) -> Array:
        """Hand position (3,) on the plate's floor, so far from its middle towards the goal."""
        position = self.world.pose(self.name).pos
        return np.array([*(position[:2] + ahead * self._direction), position[2] + self._floor + _TIP_M - press])

    def update(self) -> None:
        self._direction = self._way()
        hand = self.world.hand.pos
        if self.phase == "approach":
            if float(np.linalg.norm(self._inside(ahead=0.0, press=0.0) - hand)) < _TOLERANCE_M:
                self.num_attempts += 1
                self.enter("push")
        elif self.phase == "push":
            offset = hand[:2] - self.world.pose(self.name).pos[:2]
            across = abs(float(offset @ np.array([-self._direction[1], self._direction[0]])))
            if self.world.holds(self.goal) or across > _ASTRAY_M or float(offset @ self._direction) > _AHEAD_M:
                self.enter("rise")
        elif self.phase_steps > _RISE_STEPS:
            self.finished = self.world.holds(self.goal)
            self.enter("approach")

    def move(self) -> Array:
        hand_mat = upright_hand(_FINGER_AXIS, lean_at(self.world.hand.pos, self.world.robot_xy))
        if self.phase == "approach":
            return self.come_down(
                self._inside(ahead=0.0, press=0.0),
                hand_mat,
                tolerance=_TOLERANCE_M,
                without=(self.name,),
                gripper=CLOSE,
            )
        if self.phase == "push":
            return self.towards(self._inside(ahead=_AHEAD_M, press=_PRESS_M), hand_mat, CLOSE)
        return self.towards(self.world.hand.pos + np.array([0.0, 0.0, 0.05]), hand_mat, CLOSE)
