"""A chunk of actions in one episode as one compiled function: 25 physics substeps per action, controller and goal test.

`layout` says what it is given, `osc` is the control law, `predicates` the goal test, `chunk` the loop over both. Every
function also runs as plain Python (see `native`), with the same bits.
"""

from libero_runtime.kernel.chunk import goal_met, run_chunk, substep, warned
from libero_runtime.kernel.layout import ACTION_DIM, NUM_JOINTS, STATE_SIZE, Arm, Goal, Live, Work, make_work

__all__ = [
    "ACTION_DIM", "NUM_JOINTS", "STATE_SIZE", "Arm", "Goal", "Live", "Work", "goal_met", "make_work", "run_chunk",
    "substep", "warned",
]  # fmt: skip
