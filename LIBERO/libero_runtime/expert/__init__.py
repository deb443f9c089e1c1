"""A scripted expert for the tasks of LIBERO's suites.

It reads the simulator's state and answers with the environment's own actions, one per control step. It acts on the
present state and the phase it is in, so it recovers from disturbed actions and lost objects. For learners it is
deliberately regular: the same side of an object, one hand orientation where possible, straight moves at full speed, and
height a function of the remaining distance, so that phases can be told from an image.

`skills.choice` turns a task's predicates into skills; `grasps` finds grasps in collision geometry, `placements` where
objects go; `world` reads the state and `motion` is the action law.
"""

import numpy as np
from numpy.typing import NDArray

from libero_runtime.expert.motion import CLOSE, OPEN
from libero_runtime.expert.skills.base import Skill
from libero_runtime.expert.skills.choice import next_skill
from libero_runtime.expert.world import ExpertError, GaveUpError, World
from libero_runtime.sim.scene import Scene

__all__ = ["CLOSE", "OPEN", "ExpertError", "GaveUpError", "ScriptedExpert"]


class ScriptedExpert:
    """Closed-loop controller; `act()` once per control step. Use a new object for every episode."""

    def __init__(self, scene: Scene) -> None:
        self._world = World(scene)
        next_skill(self._world)  # a task it cannot do is reported now
        self._skill: Skill | None = None
        self._first = True

    @property
    def num_attempts(self) -> int:
        """Attempts at what it is doing now: more than a few mean that it will not succeed."""
        return self._skill.num_attempts if self._skill is not None else 0

    def act(self) -> NDArray[np.float64]:
        """Action (7,) for the loaded episode: six deltas in [-1, 1], gripper -1 open / +1 close.

        Raises:
            ExpertError: it cannot do what the task asks for; in the first step.
            GaveUpError: it cannot go on from where the episode has come to.
        """
        try:
            action = self._act()
        except ExpertError as error:
            if self._first:
                raise
            raise GaveUpError(str(error)) from error
        self._first = False
        return action

    def _act(self) -> NDArray[np.float64]:
        self._world.refresh()
        if self._skill is None or self._skill.finished:
            self._skill = next_skill(self._world)
        if self._skill is None:
            return np.array([0.0] * 6 + [OPEN])
        return self._skill.act()
