"""A microwave's door is pulled ajar by its handle, pushed open from inside, and pushed shut."""

import numpy as np

from libero_runtime.expert.motion import CLOSE, OPEN, Array, reaching_hand
from libero_runtime.expert.placements import inwards
from libero_runtime.expert.skills.base import JointSkill
from libero_runtime.expert.world import Goal, World, once_per_step

_PUSH_HEIGHT_M = 0.020  # pads' middle below the handle's upper end
_FINGER_M = 0.015
_PUSH_AHEAD_M = 0.06
_DOOR_STAND_OFF_M = 0.05
_BAR_M = 0.02
_GRIP_HEIGHT_M = 0.06  # pads' middle below the handle's upper end when it is pulled
_DIP_RAD = 0.6
_AJAR_RAD = 0.5
_TOLERANCE_M, _LOST_M = 0.012, 0.05
_MAX_CLOSE_STEPS, _MAX_PULL_STEPS = 14, 60
_RELEASE_STEPS, _BACK_STEPS, _BACK_M = 4, 8, 0.05
_ALONG_Y = np.array([0.0, 1.0])
_HOME_M, _HOME_STEPS, _STRAIGHT_RAD = 0.06, 14, 0.4


class DoorSkill(JointSkill):
    """What opening and closing share: where the door's handle is and how it moves."""

    def __init__(self, world: World, goal: Goal) -> None:
        super().__init__(world, goal, world.joint_names(goal[1])[0])
        self._closing = 1.0 if abs(self._low) > abs(self._high) else -1.0

    @property
    def angle(self) -> float:
        """How far the door is open, in radians."""
        return abs(float(self.world.data.qpos[self._address]))

    @property
    def ajar(self) -> bool:
        """Whether the hand fits in behind the door."""
        return self.angle > _AJAR_RAD

    @once_per_step
    def bar(self) -> tuple[Array, Array]:
        """The handle's upper end (3,) at its outside, and the way (2,) it moves while the door closes."""
        anchor = self.world.data.xanchor[self._joint]
        points = self.world.part_points(self._body) - anchor
        turn = self._closing * float(np.sign(self.world.data.xaxis[self._joint][2]))
        thin = np.linalg.eigh(np.cov(points[:, :2].T))[1][:, 0]
        middle = points[:, :2].mean(axis=0)
        outside = points[:, :2] @ (thin * np.sign(turn * (thin[0] * middle[1] - thin[1] * middle[0])))
        bar = points[outside > outside.max() - _BAR_M]
        point = np.array([*(bar[:, :2].mean(axis=0)), float(bar[:, 2].max())])
        radius = float(np.hypot(point[0], point[1]))
        tangent: Array = turn * np.array([-point[1], point[0]]) / radius
        return anchor + point, tangent


class PushDoor(DoorSkill):
    """Come down beside the door with a closed hand and push it: from outside to shut it, from inside to open it."""

    def __init__(self, world: World, goal: Goal) -> None:
        super().__init__(world, goal)
        self._sense = 1.0 if goal[0] == "close" else -1.0

    def update(self) -> None:
        hand = self.world.hand.pos
        if self.phase == "approach":
            if self.distance(self._beside(_DOOR_STAND_OFF_M)) < 0.02:
                self.num_attempts += 1
                self.enter("push")
        elif self.phase == "push":
            passed = self._sense * float((hand - self._beside(0.0))[:2] @ self.bar()[1]) > 0.02
            if self.world.holds(self.goal) or passed or self.phase_steps > 120:
                self.enter("back")
        elif self.phase_steps > 8:
            self.finished = self.world.holds(self.goal)
            self.enter("approach")

    def _beside(self, distance: float) -> Array:
        """Hand position (3,) so far from the side to push on."""
        point, way = self.bar()
        if self._sense > 0:
            return np.array([*(point[:2] - distance * way), point[2] - _PUSH_HEIGHT_M])
        points = self.world.part_points(self._body)
        depth = float((points[:, :2] @ way).max() - point[:2] @ way)
        return np.array([*(point[:2] + (depth + distance) * way), float(points[:, 2].max()) - _PUSH_HEIGHT_M])

    def move(self) -> Array:
        way = self._sense * self.bar()[1]
        hand, hand_mat = self.world.hand.pos, self.upright(_ALONG_Y)
        if self.phase == "approach":
            target = self._beside(_DOOR_STAND_OFF_M)
            return self.come_down(target, hand_mat, tolerance=0.02, without=(), gripper=CLOSE)
        if self.phase == "push":
            return self.towards(self._beside(_FINGER_M - _PUSH_AHEAD_M), hand_mat, CLOSE)
        return self.towards(hand + np.array([*(-0.05 * way), 0.03]), hand_mat, CLOSE)


class PullDoor(DoorSkill):
    """Take the handle from the front, draw it round the hinge until the door stands ajar, let go, back off."""

    def _grip(self) -> Array:
        """Hand position (3,) on the handle."""
        return np.asarray(self.bar()[0] - np.array([0.0, 0.0, _GRIP_HEIGHT_M]))

    def _hand_mat(self) -> Array:
        """It stays as it is while the handle turns between the fingers: the wrist could not follow."""
        return reaching_hand(inwards(self.world, self.goal[1]), _DIP_RAD)

    def update(self) -> None:
        away = self.distance(self._grip())
        if self.phase == "approach":
            if self.lined_up(self._stand_off(), self._hand_mat()):
                self.num_attempts += 1
                self.enter("reach")
        elif self.phase == "reach":
            if away < _TOLERANCE_M or self.phase_steps > _MAX_PULL_STEPS:
                self.enter("grasp")
        elif self.phase == "grasp":
            if self.phase_steps > 6 and (self.world.closing_speed < 0.01 or self.phase_steps > _MAX_CLOSE_STEPS):
                self.enter("pull")
        elif self.phase == "pull":
            if self.angle > _AJAR_RAD + 0.1 or away > _LOST_M or self.phase_steps > _MAX_PULL_STEPS:
                self.enter("back")
        elif self.phase == "back":
            if self.phase_steps > _BACK_STEPS:
                self.enter("straighten")
        elif self.phase_steps > _HOME_STEPS and self.turn_left(self.upright(_ALONG_Y)) < _STRAIGHT_RAD:
            self.finished = self.ajar
            self.enter("approach")

    def _stand_off(self) -> Array:
        return np.asarray(self._grip() - _DOOR_STAND_OFF_M * self._hand_mat()[:, 2])

    def move(self) -> Array:
        point, hand_mat, hand = self._grip(), self._hand_mat(), self.world.hand
        if self.phase == "approach":
            return self.towards(self.over_obstacles(self._stand_off(), without=()), hand_mat, OPEN)
        if self.phase == "reach":
            return self.towards(point, hand_mat, OPEN)
        if self.phase == "grasp":
            return self.towards(point, hand_mat, CLOSE)
        if self.phase == "pull":
            return self.towards(point - np.array([*(_PUSH_AHEAD_M * self.bar()[1]), 0.0]), hand_mat, CLOSE)
        if self.phase == "straighten":  # first towards the robot: the arm is stretched out here
            home = self.world.robot_xy - hand.pos[:2]
            hand_mat = self.upright(_ALONG_Y) if self.phase_steps > _HOME_STEPS else hand.mat
            return self.towards(hand.pos + np.array([*(_HOME_M * home / np.hypot(*home)), 0.0]), hand_mat, OPEN)
        back = _BACK_M if self.phase_steps > _RELEASE_STEPS else 0.0
        return self.towards(hand.pos - back * hand.mat[:, 2], hand.mat, OPEN)
