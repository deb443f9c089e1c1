"""Put an object on or under a shelf, through its open front."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from libero_runtime.expert.motion import CLOSE, action
from libero_runtime.expert.placements import Placement
from libero_runtime.expert.postures import inwards
from libero_runtime.expert.skills.pick_place import PickPlace
from libero_runtime.expert.world import Pose

Array = NDArray[np.float64]

_OUTSIDE_M = 0.03  # from the front to the object while it is lined up
_OVER_FLOOR_M = (0.006, 0.03)
_NEAR_M = 0.10
_LINED_UP_M, _ALIGNED_RAD = 0.015, 0.15


class PutThrough(PickPlace):
    """As taking and setting down, but lined up in front of the opening and moved in straight."""

    def _begin(self) -> None:
        self._entering = False
        self._stood_at = float(self.world.pose(self.goal[1]).pos[2] + self.world.world_points(self.goal[1])[:, 2].min())
        super()._begin()

    def _place(self) -> Placement:
        """In front of the opening, then inside of it."""
        world, region = self.world, self.world.region(self.goal[2])
        fixture = str(region.parent)
        way, points = inwards(world, fixture), world.world_points(self.name)
        position = region.pose.pos.copy()
        shelf = world.world_points(fixture) + world.pose(fixture).pos
        # Where the object stood is the ground of what has no floor of its own.
        floor = max(float(position[2] - region.half[2]), min(float(shelf[:, 2].min()), self._stood_at))
        play = (2 * float(region.half[2]) - float(np.ptp(points[:, 2]))) / 2
        position[2] = floor + float(np.clip(play, *_OVER_FLOOR_M)) - float(points[:, 2].min())
        if not self._entering:
            front = float((shelf[:, :2] @ way).min())
            ahead = front - _OUTSIDE_M - float((points[:, :2] @ way).max())
            position[:2] += (ahead - float(position[:2] @ way)) * way
        return Placement(position=position, tolerance=_LINED_UP_M, near=0.0, beside=(fixture,))

    def _needed_height(self, pose: Pose, place: Placement) -> float:
        """What stands around the opening is cleared by then."""
        near = float(np.hypot(*(place.position - pose.pos)[:2])) < _NEAR_M
        return -np.inf if near else super()._needed_height(pose, place)

    def _carry(self, pose: Pose) -> Array:
        error = self._place().position - pose.pos
        lined_up = float(np.linalg.norm(error)) < _LINED_UP_M and self.turn_left(self._hand_mat()) < _ALIGNED_RAD
        self._entering = self._entering or lined_up
        if not self._entering:
            return super()._carry(pose)
        error = self._place().position - pose.pos
        return action(move=error, hand_mat=self._hand_mat(), present_mat=self.world.hand.mat, gripper=CLOSE)
