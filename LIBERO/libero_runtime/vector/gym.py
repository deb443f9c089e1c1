"""Episodes of this package as a `gymnasium.vector.VectorEnv`, for Gymnasium's wrappers and the libraries that take one.

B environments, C actions per step, N cameras, P proprioception, H and W pixels.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from libero_runtime.kernel.layout import ACTION_DIM
from libero_runtime.sim.state import PROPRIO_DIM
from libero_runtime.suites import init_states, load_suite
from libero_runtime.vector.env import EpisodeStart, Frames, LiberoVectorEnv, VectorEnvError

Observation = dict[str, NDArray[Any]]
NUM_SEEDS = 2**31  # of fixture poses


class LiberoGymEnv(VectorEnv[Observation, NDArray[np.float32], NDArray[Any]]):
    """Environment i plays `tasks[i]`, (suite, task id).

    An observation is `images` (B, N, H, W, 3) uint8 and `proprio` (B, P) float32, an action (7,), or (C, 7) with
    `chunk=C`: C control steps of 50 ms, after which images are drawn once. The reward is 1 in the step that reaches the
    goal, which terminates the episode; `max_episode_steps` control steps truncate it, and so does what makes it
    impossible to go on (`infos["failure"]`).

    Autoreset is disabled: an episode that has ended stays as it is, with rewards of zero, until
    `reset(options={"reset_mask": ended_B})` names its environment.
    """

    def __init__(
        self,
        tasks: Sequence[tuple[str, int]],
        *,
        max_episode_steps: int,
        chunk: int | None = None,
        cameras: Sequence[str] = ("agentview",),
        image_size: int = 256,
        **options: Any,
    ) -> None:
        """options: of `LiberoVectorEnv`."""
        for name, value in (("max_episode_steps", max_episode_steps), ("chunk", 1 if chunk is None else chunk)):
            if value < 1:
                raise VectorEnvError(f"{name}={value} must be at least 1")
        self.num_envs = len(tasks)
        self.metadata = {"autoreset_mode": AutoresetMode.DISABLED, "render_modes": ["rgb_array"]}
        self.render_mode = "rgb_array"
        self._tasks = [load_suite(suite).task(task_id) for suite, task_id in tasks]
        self._env = LiberoVectorEnv(num_envs=len(tasks), cameras=cameras, image_size=image_size, **options)
        self._max_episode_steps = max_episode_steps
        self._num_steps_B = np.zeros(len(tasks), dtype=np.int64)
        self._success_B = np.zeros(len(tasks), dtype=bool)
        boxes: dict[str, spaces.Box] = {
            "images": spaces.Box(0, 255, (len(cameras), image_size, image_size, 3), np.uint8),
            "proprio": spaces.Box(-np.inf, np.inf, (PROPRIO_DIM,), np.float32),
        }
        self.single_observation_space = spaces.Dict({**boxes})
        shape = (ACTION_DIM,) if chunk is None else (chunk, ACTION_DIM)
        self.single_action_space = spaces.Box(-1.0, 1.0, shape, np.float32)
        self.observation_space = batch_space(self.single_observation_space, len(tasks))
        self.action_space = batch_space(self.single_action_space, len(tasks))
        self._seen = {key: np.zeros((len(tasks), *box.shape), box.dtype) for key, box in boxes.items()}

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin episodes: one of the published initial states and a seed of the fixture poses, drawn at random.

        seed: makes all further draws repeatable. `options["reset_mask"]` (B,) chooses environments (all by default),
        `options["starts"]` gives their starts, one `EpisodeStart` each, instead of drawing them; both are in `infos`.
        """
        super().reset(seed=seed)
        options = options or {}
        if unknown := sorted(set(options) - {"reset_mask", "starts"}):
            raise VectorEnvError(f"unknown options {unknown} of reset(): expected some of reset_mask, starts")
        mask_B = np.asarray(options.get("reset_mask", np.ones(self.num_envs, dtype=bool)))
        if mask_B.shape != (self.num_envs,) or mask_B.dtype != np.bool_ or not mask_B.any():
            raise VectorEnvError(f"reset_mask must be {self.num_envs} truth values, not all false, given {mask_B!r}")
        ids = np.flatnonzero(mask_B).tolist()
        starts = options.get("starts") or [self._draw(env_id) for env_id in ids]
        frames = self._env.reset(starts, ids)
        self._num_steps_B[ids], self._success_B[ids] = 0, False
        self._see(frames, ids)
        infos: dict[str, Any] = {}
        for env_id, start, language in zip(ids, starts, frames.languages, strict=True):
            infos = self._add_info(infos, {"start": start, "language": language}, env_id)
        return self._observation(), infos

    def step(
        self, actions: NDArray[np.float32]
    ) -> tuple[Observation, NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        """One action, or chunk of actions, in every environment: observations, rewards, terminated, truncated, infos.

        actions: a member of `action_space`. `infos["num_steps"]` (B,) counts the control steps simulated.
        """
        given = np.asarray(actions)
        if given.shape != self.action_space.shape:
            raise VectorEnvError(f"actions must have shape {self.action_space.shape}, given {given.shape}")
        limits_B = np.where(self._success_B, 0, self._max_episode_steps - self._num_steps_B)
        result = self._env.step_chunk(given.reshape(self.num_envs, -1, ACTION_DIM), max_steps_B=limits_B.tolist())
        before_B, self._success_B = self._success_B, result.success_BC[:, -1].copy()
        self._num_steps_B += result.num_steps_B
        self._see(result.frames, list(range(self.num_envs)))
        failed_B = np.array([failure is not None for failure in result.failures_B])
        truncated_B = ((self._num_steps_B >= self._max_episode_steps) | failed_B) & ~self._success_B
        infos: dict[str, Any] = {}
        for env_id, failure in enumerate(result.failures_B):
            told = {"success": bool(self._success_B[env_id]), "num_steps": int(result.num_steps_B[env_id])}
            infos = self._add_info(infos, told if failure is None else told | {"failure": failure}, env_id)
        rewards_B = (self._success_B & ~before_B).astype(np.float64)
        return self._observation(), rewards_B, self._success_B.copy(), truncated_B, infos

    def render(self) -> tuple[NDArray[np.uint8], ...]:
        """Last observed image (H, W, 3) of the first camera of each environment."""
        return tuple(images[0].copy() for images in self._seen["images"])

    def close_extras(self, **_: Any) -> None:
        """Free the scenes; called by `close`."""
        self._env.close()

    def _draw(self, env_id: int) -> EpisodeStart:
        task = self._tasks[env_id]
        init_index = int(self.np_random.integers(len(init_states(task))))
        return EpisodeStart(task.suite, task.task_id, init_index, seed=int(self.np_random.integers(NUM_SEEDS)))

    def _see(self, frames: Frames, ids: Sequence[int]) -> None:
        self._seen["images"][ids], self._seen["proprio"][ids] = frames.images_BNHWC, frames.proprio_BP

    def _observation(self) -> Observation:
        return {key: values.copy() for key, values in self._seen.items()}
