"""The step loop: a chunk of actions, in each of which the controller acts 25 times and the goal is tested once.

C actions.
"""

import numpy as np
from numpy.typing import NDArray

from libero_runtime.kernel import osc, predicates
from libero_runtime.kernel.layout import Arm, Array, Goal, Live, Work
from libero_runtime.kernel.native import call, compiled, part

_FIRST_BAD, _LAST_BAD = 4, 7  # mjWARN_BADQPOS to mjWARN_BADCTRL
_FIRST_FULL, _LAST_FULL = 1, 2  # mjWARN_CONTACTFULL, mjWARN_CNSTRFULL


@part
def _substep(live: Live, arm: Arm, work: Work, state: Array, action: Array, first: bool) -> None:
    """One physics substep (2 ms)."""
    call(live.step1, live.model, live.data)
    at_rest = state[14] != 0.0
    if at_rest:
        osc.read_rest(arm, work)
        state[14] = 0.0
    else:
        osc.read_arm(live, arm, work)
    if first:
        osc.set_goal(arm, work, state, action)
    osc.apply(live, arm, work, state, at_rest)
    call(live.step2, live.model, live.data)


@part
def warned(warnings: NDArray[np.int32]) -> int:
    """The first of MuJoCo's warnings (how often each was given) after which a state means nothing, or -1."""
    for kind in range(_FIRST_FULL, _LAST_BAD + 1):
        if (kind <= _LAST_FULL or kind >= _FIRST_BAD) and warnings[kind] != 0:
            return kind
    return -1


@compiled
def run_chunk(
    live: Live, arm: Arm, goal: Goal, work: Work, state: Array, actions_CA: Array, num_substeps: int,
    stop_on_success: bool, success_C: NDArray[np.bool_], drawn_qpos: Array,
) -> int:
    """Run the actions; returns how many were run, negative when MuJoCo warned in the last of them.

    state: controller's (15,), advanced in place. success_C: the goal after each action. drawn_qpos: positions that the
    poses left in mjData belong to (those before the last substep).
    """
    for c in range(actions_CA.shape[0]):
        for count in range(num_substeps):
            if count == num_substeps - 1:
                for i in range(len(drawn_qpos)):  # assigned as a whole, it takes numba a second longer to compile
                    drawn_qpos[i] = live.qpos[i]
            _substep(live, arm, work, state, actions_CA[c], count == 0)
        if warned(live.warnings) >= 0:
            return -(c + 1)
        success_C[c] = predicates.all_hold(live, goal)
        if stop_on_success and success_C[c]:
            return c + 1
    return len(actions_CA)


@compiled
def substep(live: Live, arm: Arm, work: Work, state: Array, action: Array, first: bool) -> None:
    """One physics substep (2 ms) by itself; `first` in each control step, when the action becomes the goal."""
    _substep(live, arm, work, state, action, first)


@compiled
def goal_met(live: Live, goal: Goal) -> bool:
    """Does the present state meet every predicate?"""
    return predicates.all_hold(live, goal)
