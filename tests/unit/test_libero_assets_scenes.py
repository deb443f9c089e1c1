"""Whole task scenes of stand-ins: initial states fit and come to rest."""

import re

import mujoco
import numpy as np
import pytest

from libero_runtime.models import build_env
from libero_runtime.suites import TaskSpec, init_states, load_suite

ROBOT_DOFS = 9
STEP_S = 0.002


def objects_of(task: TaskSpec) -> list[str]:
    """Names of a task's movable objects, in the order of the state."""
    (block,) = re.findall(r"\(:objects(.*?)\n\s*\)", task.bddl_path.read_text(), re.DOTALL)
    return [name for line in block.strip().splitlines() for name in line.rsplit(" - ", 1)[0].split()]


class Settling:
    """A task's physics without its robot's: the arm is held where the initial state has it."""

    def __init__(self, task: TaskSpec) -> None:
        self.env = build_env(task, control_hz=20, look="fast")
        self.model, self.data = self.env.sim.model._model, self.env.sim.data._data
        self.bodies = {name: self.model.body(f"{name}_main").id for name in objects_of(task)}

    def start(self, state: np.ndarray) -> None:
        mujoco.mj_resetData(self.model, self.data)
        self.data.qpos[:], self.data.qvel[:] = np.split(state[1:], [self.model.nq])
        mujoco.mj_forward(self.model, self.data)

    def run(self, seconds: float) -> float:
        """Advance; returns the deepest penetration between two bodies on the way (metres)."""
        robot_qpos = self.data.qpos[:ROBOT_DOFS].copy()
        deepest = 0.0
        for _ in range(round(seconds / STEP_S)):
            mujoco.mj_step(self.model, self.data)
            self.data.qpos[:ROBOT_DOFS], self.data.qvel[:ROBOT_DOFS] = robot_qpos, 0.0
            deepest = min(deepest, self.data.contact.dist.min(initial=0.0))
        return -deepest

    def poses(self) -> tuple[np.ndarray, np.ndarray]:
        """Positions (N, 3) and rotation matrices (N, 3, 3) of the objects."""
        ids = list(self.bodies.values())
        return self.data.xpos[ids].copy(), self.data.xmat[ids].reshape(-1, 3, 3).copy()


WITH_GROCERIES = [("libero_object", task_id) for task_id in range(10)]
WITH_GROCERIES += [("libero_10", task_id) for task_id in (0, 1, 6, 7)] + [("libero_goal", 6)]


@pytest.mark.parametrize(("suite", "task_id"), WITH_GROCERIES)
def test_groceries_settle_where_they_are_put(suite, task_id):
    task = load_suite(suite).task(task_id)
    settling = Settling(task)
    states = init_states(task)
    assert states.shape[1] == 1 + settling.model.nq + settling.model.nv
    settling.start(states[5 * task_id])
    placed, upright = settling.poses()
    settling.run(0.5)
    landed, rotations = settling.poses()
    # down to what carries them and not aside; no bottle topples
    assert ((placed - landed)[:, 2] < 0.1).all()
    assert np.abs(landed - placed)[:, :2].max() < 0.002
    assert (np.einsum("nij,nij->n", upright, rotations) > 1 + 2 * np.cos(np.deg2rad(1.0))).all()
    penetration = settling.run(1.0)
    still, _ = settling.poses()
    assert np.linalg.norm(still - landed, axis=1).max() < 0.0005
    assert penetration < 0.001
    assert np.abs(settling.data.qvel[ROBOT_DOFS:]).max() < 0.02
