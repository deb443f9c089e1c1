"""A LIBERO task, stepped fast: in a simulation of its own (`stepper`), from which robosuite's full model is only drawn.

N cameras, H and W pixels, C actions, F fixtures.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import mujoco
import numpy as np
from numpy.typing import NDArray

from libero_runtime.commands import LiberoError
from libero_runtime.kernel.layout import Goal
from libero_runtime.paths import Quality
from libero_runtime.sim.models import (
    SharedModel,
    build_env,
    draw_fixtures,
    fixture_bodies,
    free_env,
    return_freed_memory,
    seeded,
)
from libero_runtime.sim.state import (
    IDLE_ACTION,
    Advance,
    Array,
    EpisodeState,
    Pose,
    SimulationError,
    View,
    axis_angle,
    check_start,
    start_seed,
)
from libero_runtime.sim.stepper import Stepper, integration_state
from libero_runtime.sim.success import compile_goal
from libero_runtime.suites import TaskSpec, init_states

_STARTS_CACHED = 1024  # settled starts kept per scene, some 5 kB each
_FIRST_IMAGES_CACHED = 16  # per scene: a group of rollouts shares its start


class Scene:
    """One compiled LIBERO task that any number of episodes share. At any time it holds one loaded episode.

    It owns robosuite's environment object of the task: its samplers, its goal, and the full model, which is drawn. An
    episode at rest is an `EpisodeState`: arrays that hold everything the physics depends on, so that its trajectory has
    the same bits whether it runs alone or interleaved with others.

    `model` and `data` are the simulation's: bodies, joints, sites and collision geoms by their names, but none of the
    geoms that are only drawn.
    """

    def __init__(
        self,
        task: TaskSpec,
        *,
        cameras: Sequence[str] = ("agentview",),
        image_size: int = 256,
        quality: Quality = "fast",
        num_idle_steps: int = 10,
    ) -> None:
        self.task = task
        self.num_idle_steps = num_idle_steps
        self.num_cameras = len(cameras)
        self.image_size = image_size
        self.env = build_env(task, quality=quality)
        self._shared: SharedModel = self.env.shared
        self._full_model: mujoco.MjModel = self._shared.model
        self._full_data: mujoco.MjData = self.env.sim.data._data
        self._renderer = self._shared.acquire_renderer(cameras=cameras, image_size=image_size, quality=quality)
        self._fixture_bodies = fixture_bodies(self.env)
        robot = self.env.robots[0]
        self._eef_site = int(robot.eef_site_id)
        self._eef_body = int(self.env.sim.model.body_name2id(robot.robot_model.eef_name))
        self._gripper_qpos = np.asarray(robot._ref_gripper_joint_pos_indexes, dtype=np.int64)
        self._starts = lru_cache(_STARTS_CACHED)(
            lambda init_index, seed: self.settle(self.prepare(init_index=init_index, seed=seed))
        )
        self._first_images = lru_cache(_FIRST_IMAGES_CACHED)(lambda *key: self.draw(self._starts(*key)[0].pose))
        self._loaded_state: EpisodeState | None = None
        self._predicates: dict[tuple[str, ...], Goal] = {}
        self._stepper: Stepper = self._shared.make_stepper(self.env)
        self.model, self.data = self._stepper.model, self._stepper.data
        self._goal = compile_goal(self.env, self.model)
        self.env._eval_predicate = self.holds  # robosuite's own data lags behind

    # Starts -----------------------------------------------------------------------------------------------------

    def start(self, *, init_index: int, seed: int = 0) -> tuple[EpisodeState, View]:
        """Begin an episode from a published initial state and let the objects settle for the idle steps.

        Fixture poses are drawn from (task, init_index, seed). Same arguments, same bits.
        """
        state, proprio = self.settled_start(init_index=init_index, seed=seed)
        return state, View(images_NHWC=self._first_images(init_index, seed), proprio=proprio)

    def settled_start(self, *, init_index: int, seed: int) -> tuple[EpisodeState, NDArray[np.float32]]:
        """The same, without images: the episode and its proprioception."""
        return self._starts(init_index, seed)

    def prepare(self, *, init_index: int, seed: int) -> EpisodeState:
        """An episode at its published initial state, before the idle steps. Replaces the loaded episode."""
        check_start(self.task, init_index=init_index, seed=seed)
        states = init_states(self.task)
        expected = 1 + self.model.nq + self.model.nv
        if states.shape[1] != expected:
            raise LiberoError(
                f"initial states of {self.task.suite} task {self.task.task_id} have {states.shape[1]} numbers, the "
                f"compiled scene needs {expected}: BDDL files, assets and states do not belong together"
            )
        bodies, published = self._fixture_bodies, states[init_index]
        self._place_fixtures(self._shared.body_pos[bodies], self._shared.body_quat[bodies])
        mujoco.mj_resetData(self.model, self.data)
        with seeded(start_seed(task_id=self.task.task_id, init_index=init_index, seed=seed)):
            draw_fixtures(self.env, self._full_model)
        self.data.time = published[0]
        self.data.qpos[:] = qpos = published[1 : 1 + self.model.nq].copy()
        self.data.qvel[:] = published[1 + self.model.nq :]
        pose = Pose(
            fixture_pos=self._full_model.body_pos[bodies].copy(),
            fixture_quat=self._full_model.body_quat[bodies].copy(),
            drawn_qpos=qpos,
            qpos=qpos,
        )
        self._stepper.rest(pose)
        self._loaded_state = EpisodeState(
            integration=integration_state(self.model, self.data),
            controller=self._stepper.controller.copy(),
            pose=pose,
            init_index=init_index,
            seed=seed,
        )
        return self._loaded_state

    def settle(self, state: EpisodeState) -> tuple[EpisodeState, NDArray[np.float32]]:
        """Run the idle steps of an episode just prepared: the start, its step count at zero, and its proprioception."""
        if self.num_idle_steps:
            done = self.advance(state, np.tile(IDLE_ACTION, (self.num_idle_steps, 1)))
            if done.failure is not None:
                raise SimulationError(done.failure)
            return replace(done.state, num_steps=0), done.proprio
        self.load(state)
        mujoco.mj_kinematics(self.model, self.data)
        return state, self.proprio()

    # Chunks -----------------------------------------------------------------------------------------------------

    def advance(
        self,
        state: EpisodeState,
        actions_CA: Array,
        *,
        stop_on_success: bool = False,
        record_every: int = 0,
    ) -> Advance:
        """Run a chunk of at least one action from `state`, drawing nothing.

        `record_every=k` keeps the pose after every k-th control step, for `draw`.
        """
        stepper = self._stepper
        stepper.load(state)
        success: list[bool] = []
        recorded: list[Pose] = []
        while len(success) < len(actions_CA) and not (stop_on_success and success and success[-1]):
            steps = state.num_steps + len(success)
            piece = actions_CA[len(success) :]
            if record_every:
                piece = piece[: record_every - steps % record_every]
            success_C = np.zeros(len(piece), dtype=bool)
            count = stepper.run(piece, self._goal, stop_on_success=stop_on_success, success_C=success_C)
            if count < 0:
                failure = self._failure(state, steps - count)
                return Advance(state, success, self.proprio(), recorded, failure)
            success += success_C[:count].tolist()
            if record_every and (steps + count) % record_every == 0:
                recorded.append(stepper.pose(state))
        end = stepper.save(state, num_steps=state.num_steps + len(success), success=success[-1])
        return Advance(end, success, self.proprio(), recorded, failure=None)

    # The loaded episode -----------------------------------------------------------------------------------------

    def load(self, state: EpisodeState) -> None:
        """Make `state` the present episode. Positions derived from it follow with the next step, or `refresh()`."""
        self._stepper.load(state)
        self._loaded_state = state

    def save(self) -> EpisodeState:
        """Copy of the loaded episode."""
        return self._stepper.save(self._loaded, num_steps=self._loaded.num_steps, success=self.success)

    def step(self, action: Array) -> bool:
        """Advance the loaded episode by one control step (50 ms); returns the goal predicate.

        action: (7,) six OSC deltas in [-1, 1] and the gripper, -1 open, +1 close.
        """
        state, success_C = self._loaded, np.zeros(1, dtype=bool)
        actions_CA = np.asarray(action, dtype=np.float64)[None]
        if self._stepper.run(actions_CA, self._goal, stop_on_success=False, success_C=success_C) < 0:
            raise SimulationError(self._failure(state, state.num_steps + 1))
        self._loaded_state = replace(state, num_steps=state.num_steps + 1, success=bool(success_C[0]))
        return self.success

    def refresh(self) -> None:
        """Recompute poses and contacts of the loaded state without touching what the next step depends on."""
        self._stepper.drawn_qpos[:] = self.data.qpos
        mujoco.mj_fwdPosition(self.model, self.data)

    def holds(self, predicate: Sequence[str]) -> bool:
        """Does a predicate such as ("in", "milk_1", "basket_1_contain_region") hold in the loaded episode?"""
        key = tuple(predicate)
        if key not in self._predicates:
            self._predicates[key] = compile_goal(self.env, self.model, [key])
        return self._stepper.goal_met(self._predicates[key])

    def proprio(self) -> NDArray[np.float32]:
        """End-effector position 3 (m), axis-angle 3 (rad), finger positions 2 (m)."""
        rotation = axis_angle(self.data.xquat[self._eef_body])
        parts = [self.data.site_xpos[self._eef_site], rotation, self.data.qpos[self._gripper_qpos]]
        return np.concatenate(parts).astype(np.float32)

    @property
    def success(self) -> bool:
        """Goal predicate after the loaded episode's last step."""
        return self._loaded.success

    @property
    def _loaded(self) -> EpisodeState:
        """The loaded episode; of its arrays, the fixtures' are the present ones."""
        if self._loaded_state is None:
            raise ValueError("no episode is loaded: call load() or prepare() first")
        return self._loaded_state

    def _failure(self, state: EpisodeState, step: int) -> str:
        return (
            f"MuJoCo's state went bad ({self._stepper.warning()}) in control step {step} of {self.task.suite} task "
            f"{self.task.task_id} ({self.task.name}) from initial state {state.init_index}, seed {state.seed}"
        )

    # Drawing ----------------------------------------------------------------------------------------------------

    def draw(self, pose: Pose, num_cameras: int | None = None) -> NDArray[np.uint8]:
        """Images (N, H, W, 3) of any pose of this task, rotated by 180 degrees."""
        model, data = self._full_model, self._full_data
        self._place_fixtures(pose.fixture_pos, pose.fixture_quat)
        data.qpos[:] = pose.drawn_qpos
        mujoco.mj_kinematics(model, data)
        mujoco.mj_comPos(model, data)
        mujoco.mj_camlight(model, data)
        data.qpos[:] = pose.qpos
        self.env._post_process()  # lights the stove's burner when its knob is turned
        count = self.num_cameras if num_cameras is None else num_cameras
        images = np.empty((count, self.image_size, self.image_size, 3), dtype=np.uint8)
        self._renderer.render(data, images)
        return images

    def _place_fixtures(self, pos_F3: Array, quat_F4: Array) -> None:
        """In the full model."""
        self._full_model.body_pos[self._fixture_bodies] = pos_F3
        self._full_model.body_quat[self._fixture_bodies] = quat_F4

    def close(self) -> None:
        """Free model, simulations, renderer and robosuite's environment; `task` is left. A second call does nothing.

        They go at once, whoever still holds the scene: left to the garbage collector, scenes that a vector environment
        has dropped pile up by hundreds of megabytes each.
        """
        if "_shared" not in vars(self):
            return
        task = self.task
        self._shared.release_renderer(self._renderer)
        free_env(self.env)
        vars(self).clear()
        self.task = task
        return_freed_memory()
