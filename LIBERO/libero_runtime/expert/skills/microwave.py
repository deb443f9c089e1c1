"""Into a microwave: things are put in through its front, held by what sticks out of them."""

import numpy as np

from libero_runtime.expert.motion import CLOSE, OPEN, Array, reaching_hand
from libero_runtime.expert.placements import inwards
from libero_runtime.expert.skills.base import Skill
from libero_runtime.expert.world import ExpertError, Goal, World, once_per_step

_DIP_RAD = 0.60
_STAND_OFF_M = 0.09
_TOLERANCE_M = 0.010
_HANDLE_M = 0.030  # what sticks out is looked for at this depth
_GRIP_M = 0.016  # pads' middle inside its end
_BELOW_TOP_M = 0.020
_WIDEST_M = 0.06
_MAX_CLOSE_STEPS = 14
_LOST_M = 0.035
_OVER_FLOOR_M = 0.025
_SET_DOWN_M = 0.004
_PROTRUDING_M = 0.006  # left outside the front: the door pushes it in, and the hand stays outside
_BACK_M = 0.12
_PLACED_M = 0.010


class PutInside(Skill):
    """Take what points out of the opening, lift, line up in front of it, push in, set down, back off."""

    def __init__(self, world: World, goal: Goal) -> None:
        super().__init__(world, goal)
        self.name, self._fixture = goal[1], str(world.region(goal[2]).parent)
        self._held: Array = np.zeros(3)
        self._grip()
        self.enter("approach")

    # Where things are -------------------------------------------------------------------------------------------

    def _inwards(self) -> Array:
        return inwards(self.world, self._fixture)

    @once_per_step
    def _grip(self) -> Array:
        """Hand position (3,) on what sticks out of the object against the way in."""
        way = self._inwards()
        points = self.world.world_points(self.name)
        depth = points[:, :2] @ way
        end = points[depth < depth.min() + _HANDLE_M]
        side = end[:, :2] @ np.array([way[1], -way[0]])
        if float(np.ptp(side)) > _WIDEST_M:
            raise ExpertError(f"nothing that fits between the fingers sticks out of {self.name} towards the hand")
        middle = (end.min(axis=0) + end.max(axis=0)) / 2
        middle[2] = max(middle[2], float(end[:, 2].max()) - _BELOW_TOP_M)
        middle[:2] += (float(depth.min()) + _GRIP_M - float(middle[:2] @ way)) * way
        return np.asarray(self.world.pose(self.name).pos + middle)

    @once_per_step
    def _place(self) -> Array:
        """Where the object's origin (3,) goes: on the floor inside, its end just at the front."""
        way = self._inwards()
        pose, region = self.world.pose(self._fixture), self.world.region(self.goal[2])
        points = self.world.world_points(self.name)
        inside = self.world.world_points(self._fixture)
        # The middle between the side walls and the height of the floor, seen from inside the region.
        local = inside - (region.pose.pos - pose.pos)
        across = np.array([way[1], -way[0]])
        deep = (np.abs(local[:, :2] @ way) < 0.03) & (np.abs(local[:, 2]) < 0.03)
        walls = local[deep, :2] @ across
        middle = (float(walls[walls < 0].max()) + float(walls[walls > 0].min())) / 2
        under = local[(np.hypot(local[:, 0], local[:, 1]) < 0.04) & (local[:, 2] < 0)]
        floor = region.pose.pos[2] + float(under[:, 2].max())
        # The case begins where its floor does.
        low = local[(np.abs(local[:, :2] @ across - middle) < 0.04) & (local[:, 2] < under[:, 2].max() + 0.005)]
        front = float((low[:, :2] @ way).min())
        along = front - float((points[:, :2] @ way).min()) - _PROTRUDING_M
        xy = region.pose.pos[:2] + middle * across + along * way
        return np.array([*xy, floor - float(points[:, 2].min()) + _SET_DOWN_M])

    def _hand_mat(self) -> Array:
        return reaching_hand(self._inwards(), _DIP_RAD)

    def _stand_off(self) -> Array:
        return np.asarray(self._grip() - _STAND_OFF_M * self._hand_mat()[:, 2])

    # Phases -----------------------------------------------------------------------------------------------------

    def update(self) -> None:
        world = self.world
        pose = world.pose(self.name)
        if self.phase == "approach":
            if self.lined_up(self._stand_off(), self._hand_mat()):
                self.enter("reach")
        elif self.phase == "reach":
            if self.distance(self._grip()) < _TOLERANCE_M:
                self.num_attempts += 1
                self.enter("grasp")
            elif self.phase_steps > 40:
                self.enter("back")
        elif self.phase == "grasp":
            if (world.closing_speed < 0.01 and self.phase_steps > 6) or self.phase_steps >= _MAX_CLOSE_STEPS:
                self._held = self.in_hand(self.name)
                self.enter("line up")
        elif self.phase in ("line up", "insert"):
            if float(np.linalg.norm(self.in_hand(self.name) - self._held)) > _LOST_M:
                self.enter("back")
            elif self.phase == "line up":
                if float(np.linalg.norm(self._in_front() - pose.pos)) < 2 * _PLACED_M:
                    self.enter("insert")
            else:
                error = self._place() - pose.pos
                if float(np.linalg.norm(error[:2])) < _PLACED_M and float(-error[2]) < _PLACED_M:
                    self.enter("release")
        elif self.phase == "release":
            if world.finger_gap > 0.03:
                self.enter("back")
        elif self._backed_off():
            self.finished = world.holds(self.goal)
            self.enter("approach")

    def _in_front(self) -> Array:
        position = self._place().copy()
        points = self.world.world_points(self.name)
        position[:2] -= float(np.ptp(points[:, :2] @ self._inwards()) + 0.02) * self._inwards()
        position[2] += _OVER_FLOOR_M
        return position

    def _backed_off(self) -> bool:
        return float((self._grip() - self.world.hand.pos)[:2] @ self._inwards()) > _BACK_M

    def move(self) -> Array:
        hand, hand_mat = self.world.hand.pos, self._hand_mat()
        pose = self.world.pose(self.name)
        if self.phase == "approach":
            return self.towards(self.over_obstacles(self._stand_off(), without=()), hand_mat, OPEN)
        if self.phase == "reach":
            return self.towards(self._grip(), hand_mat, OPEN)
        if self.phase == "grasp":
            return self.towards(self._grip(), hand_mat, CLOSE)
        if self.phase == "line up":
            error = self._in_front() - pose.pos
            error[:2] *= float(np.clip(1 - (error[2] - 0.01) / 0.02, 0.0, 1.0))
            return self.towards(hand + error, hand_mat, CLOSE)
        if self.phase == "insert":
            error = self._place() - pose.pos
            if float(np.linalg.norm(error[:2])) > _PLACED_M:
                error[2] += _OVER_FLOOR_M
            return self.towards(hand + error, hand_mat, CLOSE)
        back = -0.06 * self._inwards() if self.phase == "back" else np.zeros(2)
        return self.towards(hand + np.array([*back, 0.0]), hand_mat, OPEN)
