"""Joins ``libero_runtime`` with the training loop: step limits, termination and rewards."""

import dataclasses
import logging
import os
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from libero_runtime import paths
from libero_runtime.opengl import select_opengl
from libero_runtime.render.devices import device_environment, drawing_devices
from libero_runtime.suites import TaskSpec, init_states, load_suite
from rlinf.config.schema import EnvConfig, EnvSplitConfig
from rlinf.data import EnvStep, EpisodePlan, Observation
from rlinf.envs.vector_env import VIDEO_STRIDE, TaskInfo
from rlinf.reporting.trace import RECORDER

log = logging.getLogger(__name__)


def tasks(suite: str) -> tuple[TaskInfo, ...]:
    """The tasks of a suite, in LIBERO's order."""

    def info(task: TaskSpec) -> TaskInfo:
        count = 0 if task.fault else len(init_states(task))  # a broken file may have none
        fault = f"{task.bddl_path}: {task.fault}" if task.fault else None
        return TaskInfo(task.task_id, task.name, task.language, count, fault)

    return tuple(info(task) for task in load_suite(suite).tasks)


def prepare() -> None:
    """Find OpenGL and make sure that the scenes' models are there, once, before workers start."""
    select_opengl()
    paths.prepare_libero()


class LiberoEnv:
    """A ``VectorEnv`` of LIBERO scenes; see ``EnvConfig`` for its settings."""

    def __init__(self, config: EnvConfig, drawing_gpu: int | None = None) -> None:
        select_opengl()
        if drawing_gpu:  # by itself, EGL draws on the machine's first
            os.environ |= device_environment(drawing_gpu, drawing_devices())
        from libero_runtime.vector.env import LiberoVectorEnv

        self.num_envs = config.num_envs_per_worker
        self._config = config
        self._split = config.train
        self._envs = LiberoVectorEnv(
            num_envs=self.num_envs,
            cameras=tuple(config.cameras),
            image_size=config.image_size,
            quality=config.look,
            num_idle_steps=config.num_idle_steps,
            watch=RECORDER.span,
        )
        self._steps_left = np.zeros(self.num_envs, np.int64)
        self._succeeded = np.zeros(self.num_envs, np.bool_)

    def configure(self, split: EnvSplitConfig) -> None:
        """Set step limit and termination rule for the episodes that start from now on."""
        self._split = dataclasses.replace(split)

    def reset(self, plans: Sequence[EpisodePlan], env_ids: Sequence[int]) -> Observation:
        """Start ``plans[i]`` in environment ``env_ids[i]``."""
        from libero_runtime.vector.env import EpisodeStart

        starts = [EpisodeStart(plan.suite, plan.task_id, plan.init_index, plan.seed) for plan in plans]
        frames = self._envs.reset(starts, list(env_ids))
        self._steps_left[list(env_ids)] = self._split.max_episode_steps
        self._succeeded[list(env_ids)] = False
        return Observation(frames.images_BNHWC, frames.proprio_BP, frames.languages)

    def step_chunk(
        self, actions_BCA: NDArray[np.float32], env_ids: Sequence[int], *, video_ids: Sequence[int]
    ) -> EnvStep:
        """Carry out one chunk of actions in each named environment, and keep video frames of ``video_ids``.

        A reward is ``reward_coef`` times the change of success (``use_rel_reward``), so that an episode's rewards add
        up to ``reward_coef`` exactly when it ends in success. An episode whose physics fails is cut off where it was
        before the chunk, without success, and a warning says so; the others go on.
        """
        ids = list(env_ids)
        stop = not self._split.ignore_terminations
        chunk = actions_BCA.shape[1]
        limit_B = np.minimum(self._steps_left[ids], chunk)
        result = self._envs.step_chunk(
            actions_BCA,
            ids,
            stop_on_success=stop,
            max_steps_B=limit_B.tolist(),
            record_every=VIDEO_STRIDE if video_ids else 0,
            record_ids=video_ids,
        )
        executed_BC = np.arange(chunk)[None, :] < np.asarray(result.num_steps_B)[:, None]
        success_BC = result.success_BC
        failed_B = np.array([failure is not None for failure in result.failures_B], np.bool_)
        for failure in filter(None, result.failures_B):
            log.warning("an episode is cut off as failed: %s", failure)
        before_BC = np.concatenate([self._succeeded[ids][:, None], success_BC[:, :-1]], axis=1)
        gained_BC = success_BC.astype(np.float32) - (before_BC.astype(np.float32) if self._config.use_rel_reward else 0)
        self._steps_left[ids] -= result.num_steps_B
        self._succeeded[ids] = success_BC[:, -1]
        terminated_B = success_BC[:, -1] & stop & ~failed_B
        return EnvStep(
            observation=Observation(result.frames.images_BNHWC, result.frames.proprio_BP, result.frames.languages),
            rewards_BC=(self._config.reward_coef * gained_BC * executed_BC).astype(np.float32),
            executed_BC=executed_BC,
            success_BC=success_BC,
            terminated_B=terminated_B,
            truncated_B=((self._steps_left[ids] <= 0) & ~terminated_B) | failed_B,
            video_frames=result.recorded,
        )

    def close(self) -> None:
        """Free the simulator."""
        self._envs.close()
