"""What every skill is: a feedback law that keeps nothing but its phase."""

from abc import ABC, abstractmethod

import numpy as np

from libero_runtime.expert.motion import OPEN, Array, action, lean_at, rotation_vector, upright_hand
from libero_runtime.expert.world import Goal, Memory, World

HOVER_M = 0.10  # above the target while still far from it
APPROACH_SLOPE = 2.0  # rise of the approach per metre of remaining distance
_CLEARANCE_M = 0.025
_PALM_HALF_LENGTH_M, _PALM_HALF_WIDTH_M, _PALM_ABOVE_M = 0.100, 0.035, 0.031
_PLAY_M = 0.008
_POINTING_DOWN = -0.9
_MARGIN_M, _TAPER = 0.06, 0.6  # what is so close to the way, less so at its end, is passed above
_NEAR_M = 0.05  # so far from the target nothing is passed above
_SLOW_DOWN_M = 0.03
_STAND_OFF_TOLERANCE_M = 0.025
ALIGNED_RAD = 0.20


class Skill(ABC):
    """One thing to do to one object; `act` once per control step until `finished`."""

    def __init__(self, world: World, goal: Goal) -> None:
        self.world, self.goal = world, goal
        self.num_attempts = 0
        self.finished = False
        self.phase = ""
        self.phase_steps = 0

    @property
    def memory(self) -> Memory:
        """What was worked out in this control step."""
        return self.world.memory

    def enter(self, phase: str) -> None:
        """Begin a phase."""
        self.phase = phase
        self.phase_steps = 0

    def act(self) -> Array:
        """Action (7,) for the present state."""
        self.update()
        self.phase_steps += 1
        return self.move()

    @abstractmethod
    def update(self) -> None:
        """Change phases where the state asks for it."""

    @abstractmethod
    def move(self) -> Array:
        """Action (7,) of the present phase."""

    def towards(self, target: Array, hand_mat: Array, gripper: float) -> Array:
        """Action that brings the hand to a position (3,) and orientation."""
        hand = self.world.hand
        return action(move=target - hand.pos, hand_mat=hand_mat, present_mat=hand.mat, gripper=gripper)

    def distance(self, target: Array) -> float:
        """Of the hand from a position (3,)."""
        return float(np.linalg.norm(target - self.world.hand.pos))

    def in_hand(self, name: str) -> Array:
        """Where an object is relative to the hand, in the hand's frame."""
        hand = self.world.hand
        return np.asarray(hand.mat.T @ (self.world.pose(name).pos - hand.pos))

    def upright(self, finger_axis: Array) -> Array:
        """The hand (3, 3) that points down where it is now, its fingers opening along a horizontal unit vector (2,)."""
        return upright_hand(finger_axis, lean_at(self.world.hand.pos, self.world.robot_xy))

    def turn_left(self, hand_mat: Array) -> float:
        """Angle (rad) between the hand and an orientation."""
        return float(np.linalg.norm(rotation_vector(hand_mat @ self.world.hand.mat.T)))

    def lined_up(self, stand_off: Array, hand_mat: Array, *, aligned: float = ALIGNED_RAD) -> bool:
        """Whether the hand is at a position (3,) before what it reaches for, and turned within an angle (rad)."""
        return self.distance(stand_off) < _STAND_OFF_TOLERANCE_M and self.turn_left(hand_mat) < aligned

    def come_down(
        self, target: Array, hand_mat: Array, *, tolerance: float, without: tuple[str, ...], gripper: float = OPEN
    ) -> Array:
        """Action that goes above a position (3,) and comes down on it; the remaining distance decides the height."""
        distance = float(np.hypot(*(target - self.world.hand.pos)[:2]))
        height = min(HOVER_M, APPROACH_SLOPE * max(0.0, distance - tolerance))
        raised = target.copy()
        raised[2] += max(height, min(0.05, 0.3 * max(0.0, self.turn_left(hand_mat) - 0.2)))
        if distance > tolerance and hand_mat[2, 2] < _POINTING_DOWN:
            raised[2] = max(raised[2], self._free_for_the_palm(without))
        return self.towards(self.over_obstacles(raised, without=without), hand_mat, gripper)

    def _free_for_the_palm(self, without: tuple[str, ...]) -> float:
        """Lowest height of the hand, where it is now, at which its palm is above everything."""
        hand = self.world.hand
        along = np.linspace(-_PALM_HALF_LENGTH_M, _PALM_HALF_LENGTH_M, 7)
        points = hand.pos[:2] + np.outer(along, hand.mat[:2, 0])
        return self.world.tallest_under(points, margin=_PALM_HALF_WIDTH_M, without=without) - _PALM_ABOVE_M + _PLAY_M

    def over_obstacles(self, target: Array, *, without: tuple[str, ...]) -> Array:
        """A target (3,) raised, and first held back sideways, so that the fingers pass above what is on the way."""
        hand = self.world.hand
        needed = _CLEARANCE_M + self.world.tallest_between(
            hand.pos[:2], target[:2], margin=_MARGIN_M, near=_NEAR_M, taper=_TAPER, without=without
        )
        raised: Array = target.copy()
        if needed > target[2]:
            raised[2] = needed
        clear = float(np.clip(1 - (needed - hand.pos[2] - 0.01) / _SLOW_DOWN_M, 0.0, 1.0))
        raised[:2] = hand.pos[:2] + clear * (target - hand.pos)[:2]
        return raised


class JointSkill(Skill):
    """What moves a drawer, a door or a knob: where its joint is, and the body that turns or slides on it."""

    def __init__(self, world: World, goal: Goal, joint: str) -> None:
        super().__init__(world, goal)
        found = world.model.joint(joint)
        self._joint, self._address = int(found.id), int(found.qposadr[0])
        self._body = int(world.model.jnt_bodyid[self._joint])
        self._low, self._high = world.model.jnt_range[self._joint]
        self.enter("approach")
