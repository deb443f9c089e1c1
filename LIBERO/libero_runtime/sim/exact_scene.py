"""A LIBERO task, stepped and observed in stock's own order: for parity, not for speed.

N cameras, H and W pixels, C actions.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from libero_runtime import kernel
from libero_runtime.sim.scene import Scene
from libero_runtime.sim.state import IDLE_ACTION, Advance, Array, EpisodeState, Pose, SimulationError, View
from libero_runtime.sim.stepper import STATE, SUBSTEPS, Stepper, integration_state, warning_name


class ExactController:
    """State of robosuite's own controller.

    A state saved at rest, before any step, does not hold all that robosuite's controller remembers.
    """

    def __init__(self, env: Any) -> None:
        self._env = env

    def get_state(self) -> Array:
        """State (15,): goal position 3 and rotation 9, gripper command 2, and a zero."""
        robot = self._env.robots[0]
        goal = robot.controller
        gripper = np.broadcast_to(np.asarray(robot.gripper.current_action, dtype=np.float64), (2,))
        return np.concatenate([goal.goal_pos, np.ravel(goal.goal_ori), gripper, [0.0]])

    def set_state(self, state: Array) -> None:
        """Restore what `get_state` returned."""
        robot = self._env.robots[0]
        robot.controller.goal_pos = state[:3].copy()
        robot.controller.goal_ori = state[3:12].reshape(3, 3).copy()
        robot.controller.new_update = True
        robot.gripper.current_action = state[12:14].copy()


class ExactScene(Scene):
    """A task in robosuite's own simulation, which its episodes (and other scenes of the same model) share.

    `model` and `data` are the full ones. Stock observes once per control step, before its end: an episode carries what
    was seen then.
    """

    _controller: ExactController

    def _make_simulation(self) -> tuple[mujoco.MjModel, mujoco.MjData]:
        if self.num_idle_steps < 1:
            raise ValueError(
                f"exact stepping needs num_idle_steps >= 1 (stock states at rest), given {self.num_idle_steps}"
            )
        self._controller = ExactController(self.env)
        return self._full_model, self._full_data

    def _draw_fixtures(self) -> None:
        _stock_reset(self.env)

    def _rest(self, pose: Pose) -> tuple[Array, Array]:
        self.env.sim.forward()
        return integration_state(self.model, self.data), self._controller.get_state()

    def _idle(self, state: EpisodeState, stepper: Stepper | None) -> tuple[EpisodeState, NDArray[np.float32]]:
        """Steps the episode as `prepare` left it: its state lacks what stock's controller knows before a step."""
        for _ in range(self.num_idle_steps):
            self.step(IDLE_ACTION)
        self._loaded_state = replace(self._loaded, num_steps=0)
        return self.save(), self.view().proprio

    def advance(
        self,
        state: EpisodeState,
        actions_CA: Array,
        *,
        stop_on_success: bool = False,
        record_every: int = 0,
        stepper: Stepper | None = None,
    ) -> Advance:
        """Run a chunk of at least one action from `state`, which becomes the loaded episode."""
        self.load(state)
        success: list[bool] = []
        recorded: list[EpisodeState] = []
        for action in actions_CA:
            try:
                success.append(self.step(action))
            except SimulationError as error:
                return Advance(state, success, _seen(state).proprio, recorded, failure=str(error))
            if record_every and self._loaded.num_steps % record_every == 0:
                recorded.append(self.save())
            if stop_on_success and success[-1]:
                break
        return Advance(self.save(), success, self.view().proprio, recorded, failure=None)

    def borrowed_stepper(self) -> AbstractContextManager[Stepper]:
        """There is none."""
        raise ValueError("exact stepping has one simulation, on the thread that draws")

    def images(self, state: EpisodeState, num_cameras: int | None = None) -> NDArray[np.uint8]:
        """Images (N, H, W, 3) that stock saw last of an episode, rotated by 180 degrees."""
        return _seen(state).images_NHWC[:num_cameras]

    def load(self, state: EpisodeState) -> None:
        mujoco.mj_setState(self.model, self.data, state.integration, STATE)
        self.data.warning.number[:] = 0
        self._controller.set_state(state.controller)
        self._shared.owner = None
        self._loaded_state = state

    def save(self) -> EpisodeState:
        qpos = self.data.qpos.copy()
        return replace(
            self._loaded,
            integration=integration_state(self.model, self.data),
            controller=self._controller.get_state(),
            pose=replace(self._loaded.pose, drawn_qpos=qpos, qpos=qpos),
        )

    def step(self, action: Array) -> bool:
        state = self._loaded
        clock, seen = state.clock, state.sampled_view
        self._own_model()
        for substep in range(SUBSTEPS):
            try:
                self.env.sim.forward()
                self.env._pre_action(action, policy_step=substep == 0)
                self.env.sim.step()
            except np.linalg.LinAlgError as error:  # robosuite meets the bad numbers before MuJoCo does
                cause = f"robosuite's controller: {error}"
                raise SimulationError(self._failure(cause, state, state.num_steps + 1)) from error
            clock, stock_observes = clock.tick()
            if stock_observes:
                seen = View(images_NHWC=self._drawn(self.num_cameras), proprio=self.proprio())
        if (warning := warning_name(kernel.warned(self.data.warning.number))) is not None:
            raise SimulationError(self._failure(warning, state, state.num_steps + 1))
        success = bool(self.env._check_success())
        self.env._post_process()
        self._loaded_state = replace(
            state, num_steps=state.num_steps + 1, success=success, clock=clock, sampled_view=seen
        )
        return success

    def refresh(self) -> None:
        self._own_model()
        mujoco.mj_fwdPosition(self.model, self.data)

    def holds(self, predicate: Sequence[str]) -> bool:
        return bool(self.env._eval_predicate(list(predicate)))

    def view(self) -> View:
        """What stock saw last of the loaded episode."""
        return _seen(self._loaded)

    def _own_model(self) -> None:
        """Write what the loaded episode keeps in the shared model, unless it is there already."""
        if self._shared.owner is not self:
            self._place_fixtures(self._loaded.pose.fixture_pos, self._loaded.pose.fixture_quat)
            self.env._post_process()  # lights the stove's burner when its knob is turned
            self._shared.owner = self


def _seen(state: EpisodeState) -> View:
    if state.sampled_view is None:
        raise ValueError("an exact episode has been seen only after a step: settle() it first")
    return state.sampled_view


def _stock_reset(env: Any) -> None:
    """The physics calls of a stock hard reset, in order: each leaves a trace in the solver's warm start."""
    from robosuite.utils.errors import RandomizationError

    while True:
        env.sim.forward()
        env.sim.forward()  # stock's new renderer
        try:
            env._reset_internal()
        except RandomizationError:
            mujoco.mj_resetData(env.sim.model._model, env.sim.data._data)
            continue
        env.sim.forward()
        return
