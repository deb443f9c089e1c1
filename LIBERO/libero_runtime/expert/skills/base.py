"""What every skill is: a feedback law that keeps nothing but its phase."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
from numpy.typing import NDArray

from libero_runtime.expert.memory import Memory
from libero_runtime.expert.motion import OPEN, action, rotation_vector
from libero_runtime.expert.world import World

Array = NDArray[np.float64]

HOVER_M = 0.10  # above the target while still far from it
APPROACH_SLOPE = 2.0  # rise of the approach per metre of remaining distance
_CLEARANCE_M = 0.025
_PALM_HALF_LENGTH_M, _PALM_HALF_WIDTH_M, _PALM_ABOVE_M = 0.100, 0.035, 0.031
_PLAY_M = 0.008
_POINTING_DOWN = -0.9
_MARGIN_M, _TAPER = 0.06, 0.6  # what is so close to the way, less so at its end, is passed above
_SLOW_DOWN_M = 0.03


class Skill(ABC):
    """One thing to do to one object; `act` once per control step until `finished`."""

    def __init__(self, world: World) -> None:
        self.world = world
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

    def turn_left(self, hand_mat: Array) -> float:
        """Angle (rad) between the hand and an orientation."""
        return float(np.linalg.norm(rotation_vector(hand_mat @ self.world.hand.mat.T)))

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

    def over_obstacles(self, target: Array, *, without: tuple[str, ...], near: float = 0.05) -> Array:
        """A target (3,) raised, and first held back sideways, so that the fingers pass above what is on the way."""
        hand = self.world.hand
        needed = _CLEARANCE_M + self.world.tallest_between(
            hand.pos[:2], target[:2], margin=_MARGIN_M, near=near, taper=_TAPER, without=without
        )
        raised: Array = target.copy()
        if needed > target[2]:
            raised[2] = needed
        clear = float(np.clip(1 - (needed - hand.pos[2] - 0.01) / _SLOW_DOWN_M, 0.0, 1.0))
        raised[:2] = hand.pos[:2] + clear * (target - hand.pos)[:2]
        return raised
