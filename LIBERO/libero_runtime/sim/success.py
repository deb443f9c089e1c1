"""A task's goal condition as a table that the compiled step loop evaluates after every control step.

`tests/unit/simulator/test_libero_success.py` holds it against LIBERO's own `_eval_predicate`. K predicates, G geoms.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from libero_runtime.commands import LiberoError
from libero_runtime.kernel import layout
from libero_runtime.kernel.layout import Goal

_JOINT_TESTS = {
    "open": (layout.ANY_JOINT, "is_open"),
    "close": (layout.ALL_JOINTS, "is_close"),
    "turnon": (layout.ANY_JOINT, "turn_on"),
    "turnoff": (layout.ALL_JOINTS, "turn_off"),
}


@dataclass
class _Row:
    kind: int
    first: int = 0
    second: int = 0
    needs_contact: bool = False
    size: NDArray[np.float64] = field(default_factory=lambda: np.zeros(3))
    touch: tuple[str, str] | None = None  # objects whose contact is asked for


def threshold_of(test: Callable[[float], bool], candidates: Sequence[float]) -> tuple[float, float, bool]:
    """Sign, threshold and inclusiveness of a joint test that flips at one of `candidates`."""
    for at in candidates:
        below, here, above = test(math.nextafter(at, -math.inf)), test(at), test(math.nextafter(at, math.inf))
        if below != above:
            return (1.0 if above else -1.0), at, here
    raise LiberoError(f"a joint test flips at none of {list(candidates)}")


class _Compiler:
    def __init__(self, env: Any, model: mujoco.MjModel) -> None:
        self.env = env
        self.model = model
        self.joints: list[tuple[int, float, float, bool]] = []  # rows of `Goal`'s joint columns

    def row(self, state: Sequence[str]) -> _Row:
        states, kind = self.env.object_states_dict, state[0]
        if kind in _JOINT_TESTS and len(state) == 2:
            return self._joint_row(kind, states[state[1]])
        if kind in ("in", "on") and len(state) == 3:
            what, where = states[state[1]], states[state[2]]
            if where.object_state_type == "site":
                return self._region_row(kind, what, where)
            if kind == "on" and what.object_state_type == "object":
                upper, lower = (int(self.env.obj_body_id[entry.object_name]) for entry in (what, where))
                return _Row(layout.ON_OBJECT, upper, lower, touch=(what.object_name, where.object_name))
        raise LiberoError(f"goal predicate {list(state)} is of a kind that LIBERO's 130 tasks do not use")

    def _region_row(self, kind: str, what: Any, where: Any) -> _Row:
        region = self.env.object_sites_dict[where.object_name]
        row = _Row(
            layout.IN_REGION if kind == "in" else layout.ON_REGION,
            first=int(self.model.site(where.object_name).id),
            second=int(self.env.obj_body_id[what.object_name]),
            size=np.asarray(region.size, dtype=np.float64),
        )
        if kind == "on" and self.env.get_object(where.parent_name) is not None:
            row.needs_contact, row.touch = True, (where.parent_name, what.object_name)
        return row

    def _joint_row(self, kind: str, what: Any) -> _Row:
        combine, test_name = _JOINT_TESTS[kind]
        of_site = what.object_state_type == "site"
        owner = self.env.get_object(what.parent_name if of_site else what.object_name)
        names = (self.env.object_sites_dict[what.object_name] if of_site else owner).joints
        ranges = owner.object_properties["articulation"].values()
        candidates = sorted({float(value) for pair in ranges for value in pair})
        sign, threshold, inclusive = threshold_of(getattr(owner, test_name), candidates)
        first = len(self.joints)
        self.joints += [(int(self.model.joint(name).qposadr[0]), sign, threshold, inclusive) for name in names]
        return _Row(combine, first=first, second=len(self.joints) - first)

    def geoms_of(self, name: str) -> NDArray[np.bool_]:
        """Mask over all geoms: those LIBERO counts as an object's own in contact checks."""
        mask = np.zeros(self.model.ngeom, dtype=bool)
        for geom in self.env.get_object(name).contact_geoms:
            geom_id = mujoco.mj_name2id(self.model, mujoco.mjtObj.mjOBJ_GEOM, geom)
            if geom_id >= 0:  # else one that collides with nothing
                mask[geom_id] = True
        return mask


def compile_goal(env: Any, model: mujoco.MjModel, goal_state: Sequence[Sequence[str]] | None = None) -> Goal:
    """The goal of robosuite's environment `env` (or another conjunction of predicates) for simulations of `model`."""
    compiler = _Compiler(env, model)
    rows = [compiler.row(state) for state in (env.parsed_problem["goal_state"] if goal_state is None else goal_state)]
    touch_K2G = np.zeros((len(rows), 2, model.ngeom), dtype=bool)
    for k, row in enumerate(rows):
        if row.touch is not None:
            touch_K2G[k] = [compiler.geoms_of(name) for name in row.touch]
    qpos, sign, threshold, inclusive = zip(*compiler.joints, strict=True) if compiler.joints else ((), (), (), ())
    return Goal(
        kind_K=np.array([row.kind for row in rows], dtype=np.int64),
        first_K=np.array([row.first for row in rows], dtype=np.int64),
        second_K=np.array([row.second for row in rows], dtype=np.int64),
        needs_contact_K=np.array([row.needs_contact for row in rows], dtype=bool),
        size_K3=np.array([row.size for row in rows], dtype=np.float64).reshape(-1, 3),
        touch_K2G=touch_K2G,
        joint_qpos=np.array(qpos, dtype=np.int64),
        joint_sign=np.array(sign, dtype=np.float64),
        joint_threshold=np.array(threshold, dtype=np.float64),
        joint_inclusive=np.array(inclusive, dtype=bool),
    )
