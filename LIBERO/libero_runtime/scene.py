"""One compiled LIBERO task that any number of episodes share.

A `Scene` owns robosuite's environment object of a task (for its model, samplers and goal) and steps it with its own
loop. An episode is a `Slot`: a few arrays that are loaded into the scene, advanced, and saved again. What is loaded is
everything the physics depends on, so an episode's trajectory has the same bits whether it runs alone or interleaved.

N cameras, H and W pixels, C colours.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import mujoco
import numpy as np
from numpy.typing import NDArray

from libero_runtime.controller import Controller, ExactController, FastController
from libero_runtime.models import SharedModel, build_env
from libero_runtime.rendering import Look
from libero_runtime.success import SuccessTest
from libero_runtime.suites import SuiteError, TaskSpec, init_states

Array = NDArray[np.float64]
CONTROL_HZ = 20
SUBSTEPS = 25  # of 2 ms each
PROPRIO_DIM = 8
IDLE_ACTION = np.array([0.0] * 6 + [-1.0])
_SUBSTEP_S = 0.002
_STATE = mujoco.mjtState.mjSTATE_INTEGRATION
_START_CACHE_SIZE = 16  # finished resets kept per scene: a group of rollouts shares its start


@dataclass(frozen=True)
class View:
    """What a policy sees."""

    images_NHWC: NDArray[np.uint8]
    proprio: NDArray[np.float32]  # (8,)


@dataclass(frozen=True)
class SampleClock:
    """When stock LIBERO samples its observations, in its own floating-point arithmetic.

    It looks once per 50 ms of simulated time, but its timer also counts the two forced looks of a reset: the look
    falls on the 24th of the 25 substeps, not after the last. Only exact stepping reproduces this.
    """

    elapsed_s: float = 0.0
    sampled: bool = False

    def forced(self) -> SampleClock:
        """After a look outside stepping."""
        return SampleClock(self.elapsed_s + _SUBSTEP_S, True)

    def tick(self) -> tuple[SampleClock, bool]:
        """After one substep: the new clock, and whether stock looks now."""
        elapsed, sampled, look = self.elapsed_s + _SUBSTEP_S, self.sampled, False
        if not sampled and elapsed <= 1.0 / CONTROL_HZ:
            sampled = look = True
        if elapsed >= 1.0 / CONTROL_HZ:
            look = look or not sampled
            elapsed, sampled = elapsed % (1.0 / CONTROL_HZ), False
        return SampleClock(elapsed, sampled), look


@dataclass(frozen=True)
class Slot:
    """One episode at rest, as plain arrays; valid for any `Scene` built for the same task and options."""

    integration: Array  # MuJoCo's integration state
    controller: Array  # (15,) see Controller.get_state
    fixture_pos: Array  # (num_fixtures, 3): not part of MuJoCo's state
    fixture_quat: Array  # (num_fixtures, 4)
    num_steps: int  # control steps since the idle steps ended
    success: bool  # goal predicate after the last step
    clock: SampleClock  # exact stepping only, with the last observation it took
    sampled_view: View | None


@dataclass(frozen=True)
class Outcome:
    """What came of a chunk in one episode."""

    success: list[bool]  # goal predicate after each simulated action
    view: View  # after the last one
    recorded: list[NDArray[np.uint8]]  # (H, W, 3) frames of the first camera


def start_seed(*, task_id: int, init_index: int, seed: int) -> int:
    """32-bit seed of everything random in an episode start."""
    return int(np.random.SeedSequence([task_id, init_index, seed]).generate_state(1)[0])


def check_start(task: TaskSpec, *, init_index: int, seed: int) -> None:
    """Raise when a task has no such initial state, or the seed is not one."""
    num_states = len(init_states(task))
    if not 0 <= init_index < num_states:
        raise SuiteError(
            f"init_index {init_index} is out of range: task {task.task_id} of {task.suite} has "
            f"initial states 0 to {num_states - 1}"
        )
    if seed < 0:
        raise SuiteError(f"seed {seed} of an episode start must not be negative")


def axis_angle(quat_wxyz: Array) -> Array:
    """Rotation vector (3,) of a unit quaternion; the angle is in [0, 2 pi], as robosuite's own conversion."""
    w = min(max(float(quat_wxyz[0]), -1.0), 1.0)
    scale = math.sqrt(1.0 - w * w)
    if scale == 0.0:
        return np.zeros(3)
    return (quat_wxyz[1:] * 2.0 * math.acos(w)) / scale


class Scene:
    """A task's model, controller, goal test and renderer. At any time it holds one loaded slot."""

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
        self.model: mujoco.MjModel = self._shared.model
        self.data: mujoco.MjData = self.env.sim.data._data
        self.num_cameras = len(cameras)
        self.image_size = image_size
        self._renderer = self._shared.acquire_renderer(cameras=cameras, image_size=image_size, look=look)
        self._success_test = SuccessTest(self.env)
        self._controller: Controller = ExactController(self.env) if exact else FastController(self.env)
        self._fixture_bodies = np.array(
            [self.env.sim.model.body_name2id(fixture.root_body) for fixture in self.env.fixtures_dict.values()],
            dtype=np.int64,
        )
        self._fixture_pos = self._shared.body_pos[self._fixture_bodies]
        self._fixture_quat = self._shared.body_quat[self._fixture_bodies]
        robot = self.env.robots[0]
        self._eef_site = int(robot.eef_site_id)
        self._eef_body = int(self.env.sim.model.body_name2id(robot.robot_model.eef_name))
        self._gripper_qpos = np.asarray(robot._ref_gripper_joint_pos_indexes, dtype=np.int64)
        self._starts: OrderedDict[tuple[int, int], tuple[Slot, View]] = OrderedDict()
        self._state_size = mujoco.mj_stateSize(self.model, _STATE)
        self._clock = SampleClock()
        self._sampled_view: View | None = None
        self._num_steps = 0
        self._success = False

    # Episodes ---------------------------------------------------------------------------------------------------

    def start(self, *, init_index: int, seed: int = 0) -> tuple[Slot, View]:
        """Begin an episode from a published initial state and let the objects settle for the idle steps.

        Fixture poses are drawn from (task, init_index, seed). Same arguments, same bits.
        """
        key = (init_index, seed)
        if key in self._starts:
            self._starts.move_to_end(key)
            return self._starts[key]
        check_start(self.task, init_index=init_index, seed=seed)
        states = init_states(self.task)
        expected = 1 + self.model.nq + self.model.nv
        if states.shape[1] != expected:
            raise SuiteError(
                f"initial states of {self.task.suite} task {self.task.task_id} have {states.shape[1]} numbers, the "
                f"compiled scene needs {expected}: BDDL files, assets and states do not belong together"
            )
        self._reset(states[init_index], start_seed(task_id=self.task.task_id, init_index=init_index, seed=seed))
        for _ in range(self.num_idle_steps):
            self.step(IDLE_ACTION)
        self._num_steps = 0
        started = (self.save(), self.view())
        self._starts[key] = started
        if len(self._starts) > _START_CACHE_SIZE:
            self._starts.popitem(last=False)
        return started

    def save(self) -> Slot:
        """Copy of the loaded episode."""
        integration = np.empty(self._state_size)
        mujoco.mj_getState(self.model, self.data, integration, _STATE)
        return Slot(
            integration=integration,
            controller=self._controller.get_state(),
            fixture_pos=self._fixture_pos,
            fixture_quat=self._fixture_quat,
            num_steps=self._num_steps,
            success=self._success,
            clock=self._clock,
            sampled_view=self._sampled_view,
        )

    def load(self, slot: Slot) -> None:
        """Make `slot` the present episode. Positions derived from it follow with the next step, or `refresh()`."""
        mujoco.mj_setState(self.model, self.data, slot.integration, _STATE)
        self._controller.set_state(slot.controller)
        self._fixture_pos, self._fixture_quat = slot.fixture_pos, slot.fixture_quat
        self._num_steps, self._success = slot.num_steps, slot.success
        self._clock, self._sampled_view = slot.clock, slot.sampled_view
        self._shared.owner = None

    def _own_model(self) -> None:
        """Write what the loaded episode keeps in the shared model, unless it is there already."""
        if self._shared.owner is not self:
            self.model.body_pos[self._fixture_bodies] = self._fixture_pos
            self.model.body_quat[self._fixture_bodies] = self._fixture_quat
            self.env._post_process()  # lights the stove's burner when its knob is turned
            self._shared.owner = self

    def refresh(self) -> None:
        """Recompute poses and contacts of the loaded state without touching what the next step depends on."""
        self._own_model()
        mujoco.mj_fwdPosition(self.model, self.data)

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
        self.model.body_pos[self._fixture_bodies] = self._shared.body_pos[self._fixture_bodies]
        self.model.body_quat[self._fixture_bodies] = self._shared.body_quat[self._fixture_bodies]
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
        self._fixture_pos = self.model.body_pos[self._fixture_bodies].copy()
        self._fixture_quat = self.model.body_quat[self._fixture_bodies].copy()
        self.data.time = state[0]
        self.data.qpos[:] = state[1 : 1 + self.model.nq]
        self.data.qvel[:] = state[1 + self.model.nq :]
        self._controller.reset()
        self._num_steps, self._success, self._sampled_view = 0, False, None
        self._clock = SampleClock().forced().forced()
        if self.exact:
            self.env.sim.forward()

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
                self.model.body_pos[body] = position
                self.model.body_quat[body] = quat

    def _stock_reset(self) -> None:
        """The physics calls of a stock hard reset, in order: each leaves a trace in the solver's warm start."""
        from robosuite.utils.errors import RandomizationError

        while True:
            self.env.sim.forward()
            self.env.sim.forward()  # stock's new renderer
            try:
                self.env._reset_internal()
            except RandomizationError:
                mujoco.mj_resetData(self.model, self.data)
                continue
            self.env.sim.forward()
            return

    # Stepping ---------------------------------------------------------------------------------------------------

    def step(self, action: Array) -> bool:
        """Advance the loaded episode by one control step (50 ms); returns the goal predicate.

        action: (7,) six OSC deltas in [-1, 1] and the gripper, -1 open, +1 close.
        """
        self._own_model()
        for substep in range(SUBSTEPS):
            self._controller.substep(action, first=substep == 0)
            if self.exact:
                self._clock, stock_looks = self._clock.tick()
                if stock_looks:
                    self._sampled_view = View(images_NHWC=self._draw(self.num_cameras), proprio=self.proprio())
        self._num_steps += 1
        self._success = self._success_test()
        self.env._post_process()
        return self._success

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
        return np.concatenate([
            self.data.site_xpos[self._eef_site],
            axis_angle(self.data.xquat[self._eef_body]),
            self.data.qpos[self._gripper_qpos],
        ]).astype(np.float32)

    def render(self) -> NDArray[np.uint8]:
        """Images (N, H, W, 3) of all cameras, rotated by 180 degrees. Call right after stepping."""
        return self.view().images_NHWC if self.exact else self._draw(self.num_cameras)

    def view(self) -> View:
        """Images of all cameras and proprioception. Call right after stepping."""
        if self._sampled_view is not None:
            return self._sampled_view
        return View(images_NHWC=self._draw(self.num_cameras), proprio=self.proprio())

    def _draw(self, num_cameras: int) -> NDArray[np.uint8]:
        self._own_model()
        images = np.empty((num_cameras, self.image_size, self.image_size, 3), dtype=np.uint8)
        self._renderer.render(self.data, images)
        return images

    def close(self) -> None:
        """Free rendering resources; the scene cannot be used afterwards."""
        self._shared.release_renderer(self._renderer)
        self._starts.clear()
