"""A task's goal condition, evaluated once per control step without robosuite's loops over named contacts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

_ON_TOP_RADIUS_M = 0.03  # LIBERO's `On` between two objects: centres closer than this in the plane


class SuccessTest:
    """Callable: does the present state meet every goal predicate of the task?

    `On(object, object)` is evaluated from contact arrays; every other predicate is asked of LIBERO itself.
    """

    def __init__(self, env: Any) -> None:
        self._env = env
        self._data: mujoco.MjData = env.sim.data._data
        self._tests = [self._compile(state) for state in env.parsed_problem["goal_state"]]

    def __call__(self) -> bool:
        return all(test() for test in self._tests)

    def _compile(self, state: Sequence[str]) -> Callable[[], bool]:
        env = self._env
        if len(state) == 3 and state[0] == "on":
            upper, lower = (env.object_states_dict[name] for name in state[1:])
            if upper.object_state_type == lower.object_state_type == "object":
                return self._on_object(upper.object_name, lower.object_name)
        return lambda: bool(env._eval_predicate(state))

    def _on_object(self, upper: str, lower: str) -> Callable[[], bool]:
        env, data = self._env, self._data
        upper_body, lower_body = env.obj_body_id[upper], env.obj_body_id[lower]
        upper_geoms, lower_geoms = self._contact_geoms(upper), self._contact_geoms(lower)

        def on_object() -> bool:
            offset = data.xpos[upper_body] - data.xpos[lower_body]
            if offset[2] < 0.0 or np.hypot(offset[0], offset[1]) >= _ON_TOP_RADIUS_M:
                return False
            pairs = data.contact.geom
            first, second = pairs[:, 0], pairs[:, 1]
            touching = (upper_geoms[first] & lower_geoms[second]) | (lower_geoms[first] & upper_geoms[second])
            return bool(touching.any())

        return on_object

    def _contact_geoms(self, name: str) -> NDArray[np.bool_]:
        """Mask over all geoms: those LIBERO counts as the object's own in contact checks."""
        model = self._env.sim.model
        mask = np.zeros(model.ngeom, dtype=bool)
        mask[[model.geom_name2id(geom) for geom in self._env.get_object(name).contact_geoms]] = True
        return mask
