"""A vector environment of this package as a `gymnasium.vector.VectorEnv`, for Gymnasium's wrappers and libraries.

B environments, C actions per step, A action dimensions.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.vector import VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from libero_runtime.kernel import ACTION_DIM
from libero_runtime.suites import init_states, load_suite
from libero_runtime.vector.base import BaseVectorEnv
from libero_runtime.vector.types import ChunkError, ChunkResult, EpisodeStart, Observation, VectorEnvError

__all__ = ["LiberoGymEnv"]

_OPTIONS = ("reset_mask", "starts")
_NUM_SEEDS = 2**31  # of fixture poses


class LiberoGymEnv(VectorEnv[Observation, NDArray[np.float32], NDArray[Any]]):
    """Tasks `tasks[i]` = (suite, task id) in environment i of a `LiberoVectorEnv` or `LiberoProcessEnv`.

    Autoreset is disabled (`metadata["autoreset_mode"]`), as for Gymnasium's own environments made with
    `AutoresetMode.DISABLED`: `reset(options={"reset_mask": ended_B})` begins the next episodes. Until then an episode
    that has ended stays as it is and says so again, with rewards of zero.

    An action is (7,), or (C, 7) with `chunk=C`: C control steps of 50 ms, after which frames are drawn once. The reward
    is 1 in the step that reaches the goal, which terminates the episode; `max_episode_steps` control steps truncate it,
    and so does what makes it impossible to go on (`infos["failure"]`; with `on_failure="raise"` it is raised).
    """

    def __init__(
        self,
        env: BaseVectorEnv,
        tasks: Sequence[tuple[str, int]],
        *,
        max_episode_steps: int,
        chunk: int | None = None,
    ) -> None:
        if len(tasks) != env.num_envs:
            raise VectorEnvError(f"expected one task per environment, {env.num_envs} in all, given {len(tasks)}")
        for name, value in (("max_episode_steps", max_episode_steps), ("chunk", 1 if chunk is None else chunk)):
            if value < 1:
                raise VectorEnvError(f"{name}={value} must be at least 1")
        self.env = env
        self.num_envs = env.num_envs
        self.metadata = env.metadata
        self.render_mode = env.render_mode
        self._tasks = [load_suite(suite).task(task_id) for suite, task_id in tasks]
        self._max_episode_steps = max_episode_steps
        self._num_steps_B = np.zeros(env.num_envs, dtype=np.int64)
        self._success_B = np.zeros(env.num_envs, dtype=bool)
        self.single_observation_space = env.single_observation_space
        self.observation_space = env.observation_space
        shape = (ACTION_DIM,) if chunk is None else (chunk, ACTION_DIM)
        self.single_action_space = spaces.Box(-1.0, 1.0, shape, np.float32)
        self.action_space = batch_space(self.single_action_space, env.num_envs)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Begin episodes: one of the published initial states and a seed of the fixture poses, drawn at random.

        seed: makes all further draws repeatable. `options["reset_mask"]` (B,) chooses environments (all by default),
        `options["starts"]` gives their starts, one `EpisodeStart` each, instead of drawing them.
        """
        super().reset(seed=seed)
        options = options or {}
        unknown = sorted(set(options) - set(_OPTIONS))
        if unknown:
            raise VectorEnvError(f"unknown options {unknown} of reset(): expected some of {', '.join(_OPTIONS)}")
        mask_B = self._mask(options.get("reset_mask"))
        ids = np.flatnonzero(mask_B).tolist()
        starts = options.get("starts")
        if starts is None:
            starts = [self._draw(env_id) for env_id in ids]
        self._num_steps_B[ids], self._success_B[ids] = 0, False
        frames = self.env.reset(starts, ids)
        seen, infos = self.env.observe(), self._infos(self.env.observe().failures_B)
        for env_id, start, language in zip(ids, starts, frames.languages, strict=True):
            infos = self._add_info(infos, {"start": start, "language": language}, env_id)
        return seen.observation(), infos

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
        actions_BCA, before_B = given.reshape(self.num_envs, -1, ACTION_DIM), self._success_B
        try:
            result = self.env.step_chunk(actions_BCA, max_steps_B=limits_B.tolist())
        except ChunkError as error:
            self._count(error.result)  # of the others, whose episodes go on
            raise
        self._count(result)
        success_B = self._success_B
        rewards_B = (success_B & ~before_B).astype(np.float64)
        failed_B = np.array([failure is not None for failure in result.failures_B])
        truncated_B = ((self._num_steps_B >= self._max_episode_steps) | failed_B) & ~success_B
        infos = self._infos(result.failures_B)
        for env_id in range(self.num_envs):
            told = {"success": bool(success_B[env_id]), "num_steps": int(result.num_steps_B[env_id])}
            infos = self._add_info(infos, told, env_id)
        return result.frames.observation(), rewards_B, success_B.copy(), truncated_B, infos

    def render(self) -> tuple[NDArray[np.uint8], ...]:
        """Last observed image (H, W, 3) of the first camera of each environment."""
        return tuple(self.env.render())

    def close_extras(self) -> None:
        """Close the environment inside; called by `close`."""
        self.env.close()

    # Internals --------------------------------------------------------------------------------------------------

    def _count(self, result: ChunkResult) -> None:
        self._num_steps_B += result.num_steps_B
        self._success_B = result.success_BC[:, -1].copy()

    def _mask(self, given: object) -> NDArray[np.bool_]:
        if given is None:
            return np.ones(self.num_envs, dtype=bool)
        mask_B = np.asarray(given)
        if mask_B.shape != (self.num_envs,) or mask_B.dtype != np.bool_ or not mask_B.any():
            raise VectorEnvError(
                f"options['reset_mask'] must be {self.num_envs} truth values, not all of them false, given {given!r}"
            )
        return mask_B

    def _draw(self, env_id: int) -> EpisodeStart:
        task = self._tasks[env_id]
        init_index = int(self.np_random.integers(len(init_states(task))))
        return EpisodeStart(task.suite, task.task_id, init_index, seed=int(self.np_random.integers(_NUM_SEEDS)))

    def _infos(self, failures_B: Sequence[str | None]) -> dict[str, Any]:
        infos: dict[str, Any] = {}
        for env_id, failure in enumerate(failures_B):
            if failure is not None:
                infos = self._add_info(infos, {"failure": failure}, env_id)
        return infos
