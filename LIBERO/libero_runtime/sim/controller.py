"""robosuite's own controller in stock order, for exact stepping. The fast one is in `kernel`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class ExactController:
    """robosuite's own controller in stock order (two extra forward passes per substep): for parity, not for speed.

    A state saved at rest, before any step, does not hold all that robosuite's controller remembers.
    """

    def __init__(self, env: Any) -> None:
        self._env = env

    def get_state(self) -> Array:
        """State (15,): goal position 3 and rotation 9, gripper command 2, and a zero."""
        robot = self._env.robots[0]
        goal = robot.controller
        gripper = np.broadcast_to(np.asarray(robot.gripper.current_action, dtype=np.float64), (2,))
        return np.concatenate([goal.goal_pos, np.ravel(goal.goal_ori), gripper, [0.0]])

    def set_state(self, state: Array) -> None:
        """Restore what `get_state` returned."""
        robot = self._env.robots[0]
        robot.controller.goal_pos = state[:3].copy()
        robot.controller.goal_ori = state[3:12].reshape(3, 3).copy()
        robot.controller.new_update = True
        robot.gripper.current_action = state[12:14].copy()

    def substep(self, action: Array, *, first: bool) -> None:
        """One physics substep (2 ms); `first` in each control step, when the action becomes the goal."""
        self._env.sim.forward()
        self._env._pre_action(action, policy_step=first)
        self._env.sim.step()
