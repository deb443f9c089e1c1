"""Stock LIBERO's side of the comparison (`fidelity`): its environment, and its steps.

T control steps, Q numbers in qpos, O free objects.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from libero_runtime import keep_decoded_files
from libero_runtime.opengl import select_opengl
from libero_runtime.paths import prepare_libero
from libero_runtime.sim.models import fixture_bodies, free_env, quiet_robosuite
from libero_runtime.sim.state import IDLE_ACTION, EpisodeState, Pose, start_seed
from libero_runtime.sim.stepper import STATE, integration_state
from libero_runtime.suites import TaskSpec, init_states

Array = NDArray[np.float64]
_NUM_IDLE_STEPS = 10
_PERTURBATION = 1e-9
_DECODED_BYTES = 500 * 2**20  # as much as MuJoCo by itself: every reset compiles the same scene again
_CONVERGED = 1e-12  # solver tolerance of converged stock; stock's is 1e-8


@dataclass(frozen=True)
class Record:
    """Converged stock's control steps, each by itself."""

    actions_TA: Array
    starts: Sequence[tuple[Array, Array]]  # T of MuJoCo's state and the controller's
    qpos_TQ: Array  # after the step
    success_T: NDArray[np.bool_]
    twins_qpos_TQ: Sequence[Array]  # of other steps that are as good: where they part, nobody can be held to it


def free_objects(model: mujoco.MjModel) -> NDArray[np.int64]:
    """Where positions (O, 3) of free objects are in qpos."""
    addresses = model.jnt_qposadr[model.jnt_type == mujoco.mjtJoint.mjJNT_FREE]
    return np.asarray(addresses[:, None] + np.arange(3))


class Stock:
    """LIBERO's own environment of a task; `settle` it in an initial state first.

    Raises a `ValueError` when it cannot be built: robosuite and MuJoCo raise no other for files that are not right.
    """

    def __init__(self, task: TaskSpec) -> None:
        select_opengl()
        prepare_libero("official")
        quiet_robosuite()
        keep_decoded_files(_DECODED_BYTES)
        from libero.libero.envs.env_wrapper import ControlEnv

        self.task = task
        self.control_env = ControlEnv(
            bddl_file_name=str(task.bddl_path), use_camera_obs=False, has_renderer=False, has_offscreen_renderer=False
        )

    def settle(self, *, init_index: int, seed: int) -> EpisodeState:
        """Reset, as stock does it, and let the objects of an initial state fall; returns that for a `Scene`."""
        self.control_env.seed(start_seed(task_id=self.task.task_id, init_index=init_index, seed=seed))
        self.control_env.reset()
        self.control_env.set_init_state(init_states(self.task)[init_index])
        for _ in range(_NUM_IDLE_STEPS):
            self.control_env.step(IDLE_ACTION)
        self.env: Any = self.control_env.env
        self.model: mujoco.MjModel = self.env.sim.model._model
        self.data: mujoco.MjData = self.env.sim.data._data
        self._tolerance, self._jacobian = float(self.model.opt.tolerance), int(self.model.opt.jacobian)
        self._settled = integration, controller = self.state()
        bodies, qpos = fixture_bodies(self.env), self.data.qpos.copy()
        pose = Pose(self.model.body_pos[bodies].copy(), self.model.body_quat[bodies].copy(), qpos, qpos)
        return EpisodeState(integration, controller, pose, init_index=init_index, seed=seed)

    def state(self) -> tuple[Array, Array]:
        """MuJoCo's state and the controller's (15,): goal position 3 and rotation 9, gripper command 2, and a zero.

        Saved at rest, before any step, it does not hold all that robosuite's controller remembers.
        """
        robot = self.env.robots[0]
        goal = robot.controller
        gripper = np.broadcast_to(np.asarray(robot.gripper.current_action, dtype=np.float64), (2,))
        controller = np.concatenate([goal.goal_pos, np.ravel(goal.goal_ori), gripper, [0.0]])
        return integration_state(self.model, self.data), controller

    def load(
        self,
        state: tuple[Array, Array],
        *,
        perturbation: float = 0.0,
        seed: int = 0,
        tolerance: float | None = None,
        reordered: bool = False,
    ) -> None:
        """Go to a state, or to one `perturbation` away.

        What follows runs with another `tolerance` of the solver, `reordered` with constraint Jacobians stored
        sparsely: the same matrices, whose sums are rounded otherwise.
        """
        mujoco.mj_setState(self.model, self.data, state[0], STATE)
        robot, controller = self.env.robots[0], state[1]
        robot.controller.goal_pos = controller[:3].copy()
        robot.controller.goal_ori = controller[3:12].reshape(3, 3).copy()
        robot.controller.new_update = True
        robot.gripper.current_action = controller[12:14].copy()
        if perturbation:
            rng = np.random.default_rng(seed)
            self.data.qpos[:] += perturbation * rng.choice([-1.0, 1.0], self.model.nq)
            self.data.qvel[:] += perturbation * rng.choice([-1.0, 1.0], self.model.nv)
        self.model.opt.tolerance = self._tolerance if tolerance is None else tolerance
        self.model.opt.jacobian = mujoco.mjtJacobian.mjJAC_SPARSE if reordered else self._jacobian
        self.env.timestep, self.env.done = 0, False

    def run(self, actions_TA: Array) -> NDArray[np.bool_]:
        """Run from the settled state; whether the goal is reached after each step (T,)."""
        self.load(self._settled)
        return np.array([bool(self.control_env.step(action)[2]) for action in actions_TA])

    def record(self, actions_TA: Array) -> Record:
        """Run the actions, converged, and each step again in all ways that should not matter."""
        self.load(self._settled, tolerance=_CONVERGED)
        starts, ends, success = [], [], []
        for action in actions_TA:
            starts.append(self.state())
            success.append(bool(self.control_env.step(action)[2]))
            ends.append(self.data.qpos.copy())

        def again(load: Callable[[tuple[Array, Array], int], None]) -> Array:
            """Where each step ends when it is begun in another way."""
            other_ends = []
            for step, (start, action) in enumerate(zip(starts, actions_TA, strict=True)):
                load(start, step)
                self.control_env.step(action)
                other_ends.append(self.data.qpos.copy())
            return np.array(other_ends)

        twins = [
            again(lambda start, step: self.load(start, tolerance=_CONVERGED, perturbation=_PERTURBATION, seed=step)),
            again(lambda start, _: self.load(start, tolerance=_CONVERGED, reordered=True)),
            again(lambda start, _: self.load(start, tolerance=_CONVERGED / 10)),
        ]
        return Record(actions_TA, starts, np.array(ends), np.array(success), twins)

    def close(self) -> None:
        """Free it."""
        self.control_env.close()
        free_env(self.env)
