"""Push a plate over the table: held by its rim, so that it follows."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from libero_runtime.expert.motion import CLOSE, action
from libero_runtime.expert.placements import placement
from libero_runtime.expert.skills.pick_place import PickPlace
from libero_runtime.expert.world import Pose

Array = NDArray[np.float64]


_PRESS_M = 0.004


class Slide(PickPlace):
    """As taking and setting down, without lifting."""

    def _grasp_point(self, pose: Pose) -> Array:
        """Pressed lightly on the plate: more of the low rim is between the fingers."""
        point: Array = super()._grasp_point(pose) - np.array([0.0, 0.0, _PRESS_M])
        return point

    def _carry(self, pose: Pose) -> Array:
        """Straight over the table to the place."""
        error = placement(self.world, self.goal).position - pose.pos
        error[2] = self._picked_at[2] - pose.pos[2]
        return action(move=error, hand_mat=self._hand_mat(), present_mat=self.world.hand.mat, gripper=CLOSE)
