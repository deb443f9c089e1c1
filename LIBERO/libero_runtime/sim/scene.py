"""A LIBERO task, stepped fast: in simulations of its own (`stepper`), from which robosuite's full model is only drawn.

N cameras, H and W pixels, C actions.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace

import mujoco
import numpy as np
from numpy.typing import NDArray

from libero_runtime.kernel import Goal
from libero_runtime.sim.resets import draw_fixtures
from libero_runtime.sim.scene_base import IDLE_ACTION, BaseScene
from libero_runtime.sim.state import Advance, Array, EpisodeState, Pose, SimulationError, View
from libero_runtime.sim.stepper import Stepper, StepperState, integration_state
from libero_runtime.sim.success import compile_goal

__all__ = ["IDLE_ACTION", "Scene"]


class Scene(BaseScene):
    """A task's simulation, controller, goal test and renderer.

    `model` and `data` are the simulation's: bodies, joints, sites and collision geoms by their names, but none of the
    geoms that are only drawn. Steppers of one's own give the same bits on whichever thread.
    """

    _stepper: Stepper
    _goal: Goal
    _predicates: dict[tuple[str, ...], Goal]

    def _make_simulation(self) -> tuple[mujoco.MjModel, mujoco.MjData]:
        self._stepper = self._shared.make_stepper(self.env)
        self._goal = compile_goal(self.env, self._stepper.model)
        self._predicates = {}
        self.env._eval_predicate = self.holds  # robosuite's own data lags behind: see sync_env
        return self._stepper.model, self._stepper.data

    # Starts -----------------------------------------------------------------------------------------------------

    def _draw_fixtures(self) -> None:
        draw_fixtures(self.env, self._full_model)

    def _rest(self, pose: Pose) -> tuple[Array, Array]:
        self._place_fixtures(self.model, pose.fixture_pos, pose.fixture_quat)
        self._stepper.rest()
        self._stepper.drawn_qpos[:] = pose.drawn_qpos
        return integration_state(self.model, self.data), self._stepper.get_state()

    def _idle(self, state: EpisodeState, stepper: Stepper | None) -> tuple[EpisodeState, NDArray[np.float32]]:
        if not self.num_idle_steps:
            self.load(state)
            mujoco.mj_kinematics(self.model, self.data)
            return state, self.proprio()
        done = self.advance(state, np.tile(IDLE_ACTION, (self.num_idle_steps, 1)), stepper=stepper)
        if done.failure is not None:
            raise SimulationError(done.failure)
        return replace(done.state, num_steps=0), done.proprio

    # Chunks -----------------------------------------------------------------------------------------------------

    def advance(
        self,
        state: EpisodeState,
        actions_CA: Array,
        *,
        stop_on_success: bool = False,
        record_every: int = 0,
        stepper: Stepper | None = None,
    ) -> Advance:
        """Run a chunk of at least one action from `state`, drawing nothing: see `BaseScene.advance`."""
        stepper = stepper or self._stepper
        self._load_stepper(stepper, state)
        success: list[bool] = []
        recorded: list[EpisodeState] = []
        while len(success) < len(actions_CA) and not (stop_on_success and success and success[-1]):
            steps = state.num_steps + len(success)
            piece = actions_CA[len(success) :]
            if record_every:
                piece = piece[: record_every - steps % record_every]
            success_C = np.zeros(len(piece), dtype=bool)
            count = stepper.run(piece, self._goal, stop_on_success=stop_on_success, success_C=success_C)
            if count < 0:
                failure = self._failure(stepper.warning(), state, steps - count)
                return Advance(state, success, self._proprio(stepper.data), recorded, failure)
            success += success_C[:count].tolist()
            if record_every and (steps + count) % record_every == 0:
                recorded.append(self._save_stepper(stepper, state, num_steps=steps + count, success=success[-1]))
        return Advance(
            state=self._save_stepper(stepper, state, num_steps=state.num_steps + len(success), success=success[-1]),
            success=success,
            proprio=self._proprio(stepper.data),
            recorded=recorded,
            failure=None,
        )

    def borrowed_stepper(self) -> AbstractContextManager[Stepper]:
        return self._shared.stepper(self.env)

    def _load_stepper(self, stepper: Stepper, state: EpisodeState) -> None:
        stepper.load(StepperState(state.integration, state.controller, state.pose.drawn_qpos))
        self._place_fixtures(stepper.model, state.pose.fixture_pos, state.pose.fixture_quat)

    @staticmethod
    def _save_stepper(stepper: Stepper, state: EpisodeState, *, num_steps: int, success: bool) -> EpisodeState:
        saved = stepper.save()
        return replace(
            state,
            integration=saved.integration,
            controller=saved.controller,
            pose=replace(state.pose, drawn_qpos=saved.drawn_qpos, qpos=stepper.data.qpos.copy()),
            num_steps=num_steps,
            success=success,
        )

    # The loaded episode -----------------------------------------------------------------------------------------

    def load(self, state: EpisodeState) -> None:
        self._load_stepper(self._stepper, state)
        self._loaded_state = state

    def save(self) -> EpisodeState:
        return self._save_stepper(self._stepper, self._loaded, num_steps=self.num_steps, success=self.success)

    def step(self, action: Array) -> bool:
        state, success_C = self._loaded, np.zeros(1, dtype=bool)
        actions_CA = np.asarray(action, dtype=np.float64)[None]
        if self._stepper.run(actions_CA, self._goal, stop_on_success=False, success_C=success_C) < 0:
            raise SimulationError(self._failure(self._stepper.warning(), state, state.num_steps + 1))
        self._loaded_state = replace(state, num_steps=state.num_steps + 1, success=bool(success_C[0]))
        return self.success

    def refresh(self) -> None:
        self._stepper.drawn_qpos[:] = self.data.qpos
        mujoco.mj_fwdPosition(self.model, self.data)

    def holds(self, predicate: Sequence[str]) -> bool:
        key = tuple(predicate)
        if key not in self._predicates:
            self._predicates[key] = compile_goal(self.env, self.model, [key])
        return self._stepper.goal_met(self._predicates[key])

    def sync_env(self) -> None:
        """Bring robosuite's environment to the loaded episode, poses and contacts included: nothing here needs it."""
        self._show(self._pose(), with_contacts=True)

    # Seeing -----------------------------------------------------------------------------------------------------

    def view(self) -> View:
        return View(images_NHWC=self.draw(self._pose()), proprio=self.proprio())

    def images(self, state: EpisodeState, num_cameras: int | None = None) -> NDArray[np.uint8]:
        return self.draw(state.pose, num_cameras)

    def draw(self, pose: Pose, num_cameras: int | None = None) -> NDArray[np.uint8]:
        """Images (N, H, W, 3) of any pose of this task, rotated by 180 degrees. For the thread that draws."""
        self._show(pose)
        return self._drawn(self.num_cameras if num_cameras is None else num_cameras)

    def _pose(self) -> Pose:
        """Of the loaded episode."""
        return replace(
            self._loaded.pose, drawn_qpos=self._stepper.drawn_qpos.copy(), qpos=self._stepper.data.qpos.copy()
        )

    def _show(self, pose: Pose, *, with_contacts: bool = False) -> None:
        """Bring the full model to a pose."""
        model, data = self._full_model, self._full_data
        self._shared.owner = None
        self._place_fixtures(model, pose.fixture_pos, pose.fixture_quat)
        data.qpos[:] = pose.drawn_qpos
        if with_contacts:
            mujoco.mj_fwdPosition(model, data)
        else:
            mujoco.mj_kinematics(model, data)
            mujoco.mj_comPos(model, data)
            mujoco.mj_camlight(model, data)
        data.qpos[:] = pose.qpos
        self.env._post_process()  # lights the stove's burner when its knob is turned
