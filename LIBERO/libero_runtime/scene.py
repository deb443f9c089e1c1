"""One compiled LIBERO task that any number of episodes share.

A `Scene` owns robosuite's environment object of a task (for its samplers, its goal and its full model, from which it
draws) and a simulation of its own (`stepper`). An episode is a `Slot`: a few arrays that are loaded into a simulation,
advanced, and saved again. What is loaded is everything the physics depends on, so an episode's trajectory has the same
bits whether it runs alone or interleaved, and on whichever thread.

N cameras, H and W pixels, C colours.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace

import mujoco
import numpy as np
from numpy.typing import NDArray

from libero_runtime.controller import ExactController
from libero_runtime.kernel import Goal
from libero_runtime.models import SharedModel, build_env
from libero_runtime.rendering import Look
from libero_runtime.slots import (
    CONTROL_HZ,
    Advance,
    Outcome,
    Pose,
    SampleClock,
    SimulationError,
    Slot,
    View,
    axis_angle,
    check_start,
    start_seed,
)
from libero_runtime.stepper import STATE, SUBSTEPS, Stepper, StepperState
from libero_runtime.success import compile_goal
from libero_runtime.suites import SuiteError, TaskSpec, init_states

Array = NDArray[np.float64]
IDLE_ACTION = np.array([0.0] * 6 + [-1.0])
_START_CACHE_SIZE = 1024  # settled starts kept per scene, some 5 kB each
_VIEW_CACHE_SIZE = 16  # first observations kept per scene: a group of rollouts shares its start


class Scene:
    """A task's simulation, controller, goal test and renderer. At any time it holds one loaded slot.

    `model` and `data` are the simulation's: bodies, joints, sites and collision geoms by their names, but none of the
    geoms that are only drawn. With `exact` they are robosuite's own.
    """

    def __init__(
        self,
        task: TaskSpec,
        *,
        cameras: Sequence[str] = ("agentview",),
        image_size: int = 256,
        look: Look = "fast",
        num_idle_steps: int = 10,
        exact: bool = False,
    ) -> None:
        if exact and num_idle_steps < 1:
            raise ValueError(f"exact stepping needs num_idle_steps >= 1 (stock states at rest), given {num_idle_steps}")
        self.task = task
        self.exact = exact
        self.num_idle_steps = num_idle_steps
        self.env = build_env(task, control_hz=CONTROL_HZ, look=look)
        self._shared: SharedModel = self.env.shared
        self._full_model: mujoco.MjModel = self._shared.model
        self._full_data: mujoco.MjData = self.env.sim.data._data
        self.model, self.data = self._full_model, self._full_data
        self._controller: ExactController | Stepper = ExactController(self.env)
        self._fixture_bodies = np.array(
            [self.env.sim.model.body_name2id(fixture.root_body) for fixture in self.env.fixtures_dict.values()],
            dtype=np.int64,
        )
        if not exact:
            self._stepper: Stepper = self._shared.make_stepper(self.env)
            self._controller = self._stepper
            self.model, self.data = self._stepper.model, self._stepper.data
            self._goal = compile_goal(self.env, self.model)
            self._predicates: dict[tuple[str, ...], Goal] = {}
            self.env._eval_predicate = self.holds  # robosuite's own data lags behind: see sync_env
        self.num_cameras = len(cameras)
        self.image_size = image_size
        self._renderer = self._shared.acquire_renderer(cameras=cameras, image_size=image_size, look=look)
        self._fixture_pos = self._shared.body_pos[self._fixture_bodies]
        self._fixture_quat = self._shared.body_quat[self._fixture_bodies]
        robot = self.env.robots[0]
        self._eef_site = int(robot.eef_site_id)
        self._eef_body = int(self.env.sim.model.body_name2id(robot.robot_model.eef_name))
        self._gripper_qpos = np.asarray(robot._ref_gripper_joint_pos_indexes, dtype=np.int64)
        self._starts: OrderedDict[tuple[int, int], tuple[Slot, NDArray[np.float32]]] = OrderedDict()
        self._views: OrderedDict[tuple[int, int], View] = OrderedDict()
        self._clock = SampleClock()
        self._sampled_view: View | None = None
        self._init_index, self._seed = -1, 0
        self._num_steps = 0
        self._success = False

    # Episodes ---------------------------------------------------------------------------------------------------

    def start(self, *, init_index: int, seed: int = 0) -> tuple[Slot, View]:
        """Begin an episode from a published initial state and let the objects settle for the idle steps.

        Fixture poses are drawn from (task, init_index, seed). Same arguments, same bits.
        """
        slot, proprio = self.settled(init_index=init_index, seed=seed) or self.settle(
            self.prepare(init_index=init_index, seed=seed)
        )
        return slot, self.first_view(slot, proprio)

    def settled(self, *, init_index: int, seed: int) -> tuple[Slot, NDArray[np.float32]] | None:
        """The start and its proprioception, if it was settled before."""
        key = (init_index, seed)
        if key in self._starts:
            self._starts.move_to_end(key)
        return self._starts.get(key)

    def prepare(self, *, init_index: int, seed: int) -> Slot:
        """An episode at its published initial state, before the idle steps. Replaces the loaded episode."""
        check_start(self.task, init_index=init_index, seed=seed)
        states = init_states(self.task)
        expected = 1 + self.model.nq + self.model.nv
        if states.shape[1] != expected:
            raise SuiteError(
                f"initial states of {self.task.suite} task {self.task.task_id} have {states.shape[1]} numbers, the "
                f"compiled scene needs {expected}: BDDL files, assets and states do not belong together"
            )
        self._init_index, self._seed = init_index, seed
        self._reset(states[init_index], start_seed(task_id=self.task.task_id, init_index=init_index, seed=seed))
        return self.save()

    def settle(self, slot: Slot, stepper: Stepper | None = None) -> tuple[Slot, NDArray[np.float32]]:
        """Run the idle steps of a prepared episode; with a stepper of one's own from any thread."""
        idle_CA = np.tile(IDLE_ACTION, (self.num_idle_steps, 1))
        if self.exact:
            for action in idle_CA:
                self.step(action)
            self._num_steps = 0
            settled, proprio = self.save(), self.proprio()
        elif self.num_idle_steps:
            done = self.advance(slot, idle_CA, stepper=stepper)
            if done.failure is not None:
                raise SimulationError(done.failure)
            settled, proprio = replace(done.slot, num_steps=0), done.proprio
        else:
            self.load(slot)
            mujoco.mj_kinematics(self.model, self.data)
            settled, proprio = slot, self.proprio()
        self._starts[slot.init_index, slot.seed] = (settled, proprio)
        if len(self._starts) > _START_CACHE_SIZE:
            self._starts.popitem(last=False)
        return settled, proprio

    def first_view(self, slot: Slot, proprio: NDArray[np.float32]) -> View:
        """The observation of a settled start; the last few are kept."""
        key = (slot.init_index, slot.seed)
        if key not in self._views:
            self._views[key] = slot.sampled_view or View(images_NHWC=self.draw(slot.pose), proprio=proprio)
            if len(self._views) > _VIEW_CACHE_SIZE:
                self._views.popitem(last=False)
        self._views.move_to_end(key)
        return self._views[key]

    def advance(
        self,
        slot: Slot,
        actions_CA: Array,
        *,
        stop_on_success: bool = False,
        record_every: int = 0,
        stepper: Stepper | None = None,
    ) -> Advance:
        """Run a chunk of at least one action from `slot`, drawing nothing.

        With a stepper of one's own, from any thread and whatever the scene has loaded.
        """
        if self.exact:
            raise ValueError("exact stepping knows no detached episodes: use load() and run()")
        stepper = stepper or self._stepper
        self._load_stepper(stepper, slot)
        success: list[bool] = []
        recorded: list[Pose] = []
        while len(success) < len(actions_CA) and not (stop_on_success and success and success[-1]):
            steps = slot.num_steps + len(success)
            piece = actions_CA[len(success) :]
            if record_every:
                piece = piece[: record_every - steps % record_every]
            success_C = np.zeros(len(piece), dtype=bool)
            count = stepper.run(
                np.ascontiguousarray(piece), self._goal, stop_on_success=stop_on_success, success_C=success_C
            )
            if count < 0:
                return Advance(slot, success, self._proprio(stepper.data), recorded, self._failure(
                    stepper, slot, steps - count
                ))  # fmt: skip
            success += success_C[:count].tolist()
            if record_every and (steps + count) % record_every == 0:
                recorded.append(self._pose(stepper, slot.pose))
        return Advance(
            slot=self._save_stepper(stepper, slot, num_steps=slot.num_steps + len(success), success=success[-1]),
            success=success,
            proprio=self._proprio(stepper.data),
            recorded=recorded,
            failure=None,
        )

    def _failure(self, stepper: Stepper, slot: Slot, step: int) -> str:
        return (
            f"MuJoCo's state went bad ({stepper.warning()}) in control step {step} of {self.task.suite} task "
            f"{self.task.task_id} ({self.task.name}) from initial state {slot.init_index}, seed {slot.seed}"
        )

    def borrowed_stepper(self) -> AbstractContextManager[Stepper]:
        """A simulation for `advance` and `settle` on another thread."""
        return self._shared.stepper(self.env)

    def _load_stepper(self, stepper: Stepper, slot: Slot) -> None:
        stepper.load(StepperState(slot.integration, slot.controller, slot.pose.drawn_qpos))
        stepper.model.body_pos[self._fixture_bodies] = slot.pose.fixture_pos
        stepper.model.body_quat[self._fixture_bodies] = slot.pose.fixture_quat

    @staticmethod
    def _pose(stepper: Stepper, fixtures: Pose) -> Pose:
        return Pose(
            fixture_pos=fixtures.fixture_pos,
            fixture_quat=fixtures.fixture_quat,
            drawn_qpos=stepper.drawn_qpos.copy(),
            qpos=stepper.data.qpos.copy(),
        )

    def _save_stepper(self, stepper: Stepper, slot: Slot, *, num_steps: int, success: bool) -> Slot:
        state = stepper.save()
        return replace(
            slot,
            integration=state.integration,
            controller=state.controller,
            pose=self._pose(stepper, slot.pose),
            num_steps=num_steps,
            success=success,
        )

    def _fixtures(self) -> Pose:
        """Pose of the loaded episode."""
        qpos = self.data.qpos.copy()
        drawn_qpos = qpos if self.exact else self._stepper.drawn_qpos.copy()
        return Pose(self._fixture_pos, self._fixture_quat, drawn_qpos=drawn_qpos, qpos=qpos)

    def save(self) -> Slot:
        """Copy of the loaded episode."""
        integration = np.empty(mujoco.mj_stateSize(self.model, STATE))
        mujoco.mj_getState(self.model, self.data, integration, STATE)
        return Slot(
            integration=integration,
            controller=self._controller.get_state(),
            pose=self._fixtures(),
            init_index=self._init_index,
            seed=self._seed,
            num_steps=self._num_steps,
            success=self._success,
            clock=self._clock,
            sampled_view=self._sampled_view,
        )

    def load(self, slot: Slot) -> None:
        """Make `slot` the present episode. Positions derived from it follow with the next step, or `refresh()`."""
        if isinstance(self._controller, ExactController):
            mujoco.mj_setState(self.model, self.data, slot.integration, STATE)
            self._controller.set_state(slot.controller)
            self._shared.owner = None
        else:
            self._load_stepper(self._controller, slot)
        self._fixture_pos, self._fixture_quat = slot.pose.fixture_pos, slot.pose.fixture_quat
        self._init_index, self._seed = slot.init_index, slot.seed
        self._num_steps, self._success = slot.num_steps, slot.success
        self._clock, self._sampled_view = slot.clock, slot.sampled_view

    def _own_model(self) -> None:
        """Exact stepping: write what the loaded episode keeps in the shared model, unless it is there already."""
        if self._shared.owner is not self:
            self._full_model.body_pos[self._fixture_bodies] = self._fixture_pos
            self._full_model.body_quat[self._fixture_bodies] = self._fixture_quat
            self.env._post_process()  # lights the stove's burner when its knob is turned
            self._shared.owner = self

    def refresh(self) -> None:
        """Recompute poses and contacts of the loaded state without touching what the next step depends on."""
        if self.exact:
            self._own_model()
        else:
            self._stepper.drawn_qpos[:] = self.data.qpos
        mujoco.mj_fwdPosition(self.model, self.data)

    def holds(self, predicate: Sequence[str]) -> bool:
        """Does a predicate such as ("in", "milk_1", "basket_1_contain_region") hold in the loaded episode?"""
        if self.exact:
            return bool(self.env._eval_predicate(list(predicate)))
        key = tuple(predicate)
        if key not in self._predicates:
            self._predicates[key] = compile_goal(self.env, self.model, [key])
        return self._stepper.goal_met(self._predicates[key])

    def sync_env(self) -> None:
        """Bring robosuite's environment to the loaded episode, poses and contacts included: nothing here needs it."""
        if not self.exact:
            self._show(self._fixtures(), with_contacts=True)

    @property
    def num_steps(self) -> int:
        """Control steps of the loaded episode since its start."""
        return self._num_steps

    @property
    def success(self) -> bool:
        """Goal predicate after the loaded episode's last step."""
        return self._success

    def _reset(self, state: Array, seed: int) -> None:
        """Set an initial state (1 + nq + nv,) with the controller at rest and fixtures drawn with `seed`."""
        self._shared.owner = None
        fixtures = self._fixture_bodies
        self._full_model.body_pos[fixtures] = self._shared.body_pos[fixtures]
        self._full_model.body_quat[fixtures] = self._shared.body_quat[fixtures]
        mujoco.mj_resetData(self.model, self.data)
        generator_before = np.random.get_state()  # LIBERO's samplers use numpy's global generator
        np.random.seed(seed)
        try:
            if self.exact:
                self._stock_reset()
            else:
                self._draw_fixtures()
        finally:
            np.random.set_state(generator_before)
        self._fixture_pos = self._full_model.body_pos[fixtures].copy()
        self._fixture_quat = self._full_model.body_quat[fixtures].copy()
        self.data.time = state[0]
        self.data.qpos[:] = state[1 : 1 + self.model.nq]
        self.data.qvel[:] = state[1 + self.model.nq :]
        self._num_steps, self._success, self._sampled_view = 0, False, None
        self._clock = SampleClock().forced().forced()
        if self.exact:
            self.env.sim.forward()
        else:
            self.model.body_pos[fixtures], self.model.body_quat[fixtures] = self._fixture_pos, self._fixture_quat
            self._stepper.rest()
            self._stepper.drawn_qpos[:] = self.data.qpos

    def _draw_fixtures(self) -> None:
        """Place fixtures as a stock reset does: same order of random draws, without the rest of it."""
        from robosuite.utils.errors import RandomizationError

        env = self.env
        while True:
            np.random.randn(len(env.robots[0].init_qpos))  # stock draws (and scales by zero) joint noise first
            for initializer in env.object_property_initializers:
                initializer.sample()
            try:
                placements = env.placement_initializer.sample()
            except RandomizationError:  # no free place found: stock tries again, and so do we
                continue
            break
        for position, quat, placed in placements.values():
            if placed.name in env.fixtures_dict:
                body = env.sim.model.body_name2id(placed.root_body)
                self._full_model.body_pos[body] = position
                self._full_model.body_quat[body] = quat

    def _stock_reset(self) -> None:
        """The physics calls of a stock hard reset, in order: each leaves a trace in the solver's warm start."""
        from robosuite.utils.errors import RandomizationError

        while True:
            self.env.sim.forward()
            self.env.sim.forward()  # stock's new renderer
            try:
                self.env._reset_internal()
            except RandomizationError:
                mujoco.mj_resetData(self._full_model, self._full_data)
                continue
            self.env.sim.forward()
            return

    # Stepping ---------------------------------------------------------------------------------------------------

    def step(self, action: Array) -> bool:
        """Advance the loaded episode by one control step (50 ms); returns the goal predicate.

        action: (7,) six OSC deltas in [-1, 1] and the gripper, -1 open, +1 close.
        """
        if isinstance(self._controller, ExactController):
            self._exact_step(self._controller, action)
        else:
            success_C = np.zeros(1, dtype=bool)
            actions_CA = np.asarray(action, dtype=np.float64)[None]
            if self._controller.run(actions_CA, self._goal, stop_on_success=False, success_C=success_C) < 0:
                raise SimulationError(self._failure(self._controller, self.save(), self._num_steps + 1))
            self._success = bool(success_C[0])
        self._num_steps += 1
        return self._success

    def _exact_step(self, controller: ExactController, action: Array) -> None:
        self._own_model()
        for substep in range(SUBSTEPS):
            controller.substep(action, first=substep == 0)
            self._clock, stock_looks = self._clock.tick()
            if stock_looks:
                self._sampled_view = View(images_NHWC=self._draw(self.num_cameras), proprio=self.proprio())
        self._success = bool(self.env._check_success())
        self.env._post_process()

    def run(self, actions_CA: Array, *, stop_on_success: bool = False, record_every: int = 0) -> Outcome:
        """Run a chunk of at least one action in the loaded episode and observe at its end.

        `record_every=k` keeps a frame of the first camera after every k-th control step of the episode.
        """
        success: list[bool] = []
        recorded: list[NDArray[np.uint8]] = []
        for action in actions_CA:
            success.append(self.step(action))
            if record_every and self._num_steps % record_every == 0:
                recorded.append(self.render()[0] if self.exact else self._draw(1)[0])
            if stop_on_success and success[-1]:
                break
        return Outcome(success=success, view=self.view(), recorded=recorded)

    # Seeing -----------------------------------------------------------------------------------------------------

    def proprio(self) -> NDArray[np.float32]:
        """End-effector position 3 (m), axis-angle 3 (rad), finger positions 2 (m)."""
        return self._proprio(self.data)

    def _proprio(self, data: mujoco.MjData) -> NDArray[np.float32]:
        return np.concatenate([
            data.site_xpos[self._eef_site],
            axis_angle(data.xquat[self._eef_body]),
            data.qpos[self._gripper_qpos],
        ]).astype(np.float32)

    def render(self) -> NDArray[np.uint8]:
        """Images (N, H, W, 3) of all cameras, rotated by 180 degrees. Call right after stepping."""
        return self.view().images_NHWC if self.exact else self._draw(self.num_cameras)

    def view(self) -> View:
        """Images of all cameras and proprioception. Call right after stepping."""
        if self._sampled_view is not None:
            return self._sampled_view
        return View(images_NHWC=self._draw(self.num_cameras), proprio=self.proprio())

    def draw(self, pose: Pose, num_cameras: int | None = None) -> NDArray[np.uint8]:
        """Images (N, H, W, 3) of any episode of this task, rotated by 180 degrees. For the thread that draws."""
        self._show(pose)
        return self._drawn(self.num_cameras if num_cameras is None else num_cameras)

    def _draw(self, num_cameras: int) -> NDArray[np.uint8]:
        if self.exact:
            self._own_model()
            return self._drawn(num_cameras)
        return self.draw(self._fixtures(), num_cameras)

    def _drawn(self, num_cameras: int) -> NDArray[np.uint8]:
        images = np.empty((num_cameras, self.image_size, self.image_size, 3), dtype=np.uint8)
        self._renderer.render(self._full_data, images)
        return images

    def _show(self, pose: Pose, *, with_contacts: bool = False) -> None:
        """Bring the full model to a pose."""
        model, data = self._full_model, self._full_data
        self._shared.owner = None
        model.body_pos[self._fixture_bodies] = pose.fixture_pos
        model.body_quat[self._fixture_bodies] = pose.fixture_quat
        data.qpos[:] = pose.drawn_qpos
        if with_contacts:
            mujoco.mj_fwdPosition(model, data)
        else:
            mujoco.mj_kinematics(model, data)
            mujoco.mj_comPos(model, data)
            mujoco.mj_camlight(model, data)
        data.qpos[:] = pose.qpos
        self.env._post_process()  # lights the stove's burner when its knob is turned

    def close(self) -> None:
        """Free rendering resources; the scene cannot be used afterwards."""
        self._shared.release_renderer(self._renderer)
        self._starts.clear()
        self._views.clear()
