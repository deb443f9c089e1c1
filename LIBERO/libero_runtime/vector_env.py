"""Many LIBERO episodes in one process, advanced chunk by chunk and rendered once per chunk.

B environments, C actions per chunk, A action dimensions, N cameras, P proprioception, H and W pixels.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from libero_runtime.controller import ACTION_DIM
from libero_runtime.rendering import LOOKS, Look
from libero_runtime.scene import PROPRIO_DIM, Scene, Slot, check_start
from libero_runtime.suites import TaskSpec, load_suite

__all__ = ["ChunkResult", "EpisodeStart", "Frames", "LiberoVectorEnv", "VectorEnvError"]


class VectorEnvError(ValueError):
    """A call that does not fit the environments; the message says what was expected and what came."""


@dataclass(frozen=True)
class EpisodeStart:
    """Which episode to begin: a task, one of its 50 published initial states, and the seed of the fixture poses."""

    suite: str
    task_id: int
    init_index: int
    seed: int = 0


@dataclass(frozen=True)
class Frames:
    """Observations of B environments."""

    images_BNHWC: NDArray[np.uint8]  # rotated by 180 degrees, as policies are trained on
    proprio_BP: NDArray[np.float32]  # end-effector position 3, axis-angle 3, finger positions 2
    languages: tuple[str, ...]


@dataclass(frozen=True)
class ChunkResult:
    """What came of one chunk of actions."""

    frames: Frames  # after the chunk
    success_BC: NDArray[np.bool_]  # goal predicate after each action; actions not simulated repeat the last value
    num_steps_B: NDArray[np.int64]  # actions simulated
    recorded: tuple[NDArray[np.uint8], ...]  # (H, W, 3) frames of the first environment, when asked for


@dataclass
class _Episode:
    start: EpisodeStart
    task: TaskSpec
    slot: Slot


class LiberoVectorEnv:
    """B episodes over any mix of tasks; episodes of a task share one compiled scene.

    Not thread-safe: use one object per process or thread. `exact=True` steps (and observes) in stock LIBERO's own
    order, bit for bit, at a fifth of the speed; `look="official"` gives stock pixels. At most `max_scenes` compiled
    scenes are kept; the least recently used one is dropped and rebuilt when its episodes come up again.
    """

    def __init__(
        self,
        *,
        num_envs: int,
        cameras: Sequence[str] = ("agentview",),
        image_size: int = 256,
        look: str = "fast",
        num_idle_steps: int = 10,
        max_scenes: int = 10,
        exact: bool = False,
    ) -> None:
        for name, value in (("num_envs", num_envs), ("image_size", image_size), ("max_scenes", max_scenes)):
            if value < 1:
                raise VectorEnvError(f"{name}={value} must be at least 1")
        if num_idle_steps < 0:
            raise VectorEnvError(f"num_idle_steps={num_idle_steps} must not be negative")
        if look not in LOOKS:
            raise VectorEnvError(f"look={look!r} must be one of {', '.join(LOOKS)}")
        if not cameras or isinstance(cameras, str):
            raise VectorEnvError(f"cameras={cameras!r} must be a non-empty sequence of camera names")
        self.num_envs = num_envs
        self._cameras = tuple(cameras)
        self._image_size = image_size
        self._look: Look = "official" if look == "official" else "fast"
        self._num_idle_steps = num_idle_steps
        self._max_scenes = max_scenes
        self._exact = exact
        self._scenes: OrderedDict[tuple[str, int], Scene] = OrderedDict()
        self._episodes: list[_Episode | None] = [None] * num_envs
        self._images_BNHWC = np.zeros((num_envs, len(cameras), image_size, image_size, 3), dtype=np.uint8)
        self._proprio_BP = np.zeros((num_envs, PROPRIO_DIM), dtype=np.float32)

    def reset(self, starts: Sequence[EpisodeStart], env_ids: Sequence[int] | None = None) -> Frames:
        """Begin `starts[i]` in environment `env_ids[i]` (all environments by default); the others are untouched.

        Objects fall for `num_idle_steps` with the gripper open before the first observation.
        """
        ids = self._check_ids(env_ids)
        if len(starts) != len(ids):
            raise VectorEnvError(f"expected one start per environment, {len(ids)} in all, given {len(starts)}")
        tasks = [load_suite(start.suite).task(start.task_id) for start in starts]
        for task, start in zip(tasks, starts, strict=True):
            check_start(task, init_index=start.init_index, seed=start.seed)
        for i in sorted(range(len(ids)), key=lambda i: (starts[i].suite, starts[i].task_id)):
            slot, view = self._scene(tasks[i]).start(init_index=starts[i].init_index, seed=starts[i].seed)
            self._episodes[ids[i]] = _Episode(start=starts[i], task=tasks[i], slot=slot)
            self._images_BNHWC[ids[i]] = view.images_NHWC
            self._proprio_BP[ids[i]] = view.proprio
        return self._frames(ids)

    def step_chunk(
        self,
        actions_BCA: NDArray[np.float32],
        env_ids: Sequence[int] | None = None,
        *,
        stop_on_success: bool = True,
        max_steps_B: Sequence[int] | None = None,
        record_every: int = 0,
    ) -> ChunkResult:
        """Run a chunk of C actions in each of `env_ids`, then observe once.

        actions: (B, C, 7) OSC deltas in [-1, 1], gripper -1 open / +1 close. With `stop_on_success` an episode that
        has reached its goal is not simulated further. `max_steps_B[i]` caps the actions simulated for environment i
        (0 leaves it as it is). `record_every=k` returns the first camera of the first environment after every k-th
        control step of its episode.
        """
        ids = self._check_ids(env_ids)
        actions = self._check_actions(actions_BCA, len(ids))
        num_actions = actions.shape[1]
        limits = self._check_limits(max_steps_B, len(ids), num_actions)
        if record_every < 0:
            raise VectorEnvError(f"record_every={record_every} must not be negative")
        episodes = [self._episode(env_id) for env_id in ids]
        success_BC = np.zeros((len(ids), num_actions), dtype=bool)
        num_steps_B = np.zeros(len(ids), dtype=np.int64)
        recorded: list[NDArray[np.uint8]] = []
        for i in sorted(range(len(ids)), key=lambda i: (episodes[i].task.suite, episodes[i].task.task_id)):
            episode = episodes[i]
            success_BC[i] = episode.slot.success
            if limits[i] == 0 or (stop_on_success and episode.slot.success):
                continue
            scene = self._scene(episode.task)
            scene.load(episode.slot)
            outcome = scene.run(
                actions[i, : limits[i]],
                stop_on_success=stop_on_success,
                record_every=record_every if i == 0 else 0,
            )
            steps = len(outcome.success)
            num_steps_B[i] = steps
            success_BC[i, :steps] = outcome.success
            success_BC[i, steps:] = outcome.success[-1]
            recorded += outcome.recorded
            self._images_BNHWC[ids[i]] = outcome.view.images_NHWC
            self._proprio_BP[ids[i]] = outcome.view.proprio
            episode.slot = scene.save()
        return ChunkResult(
            frames=self._frames(ids), success_BC=success_BC, num_steps_B=num_steps_B, recorded=tuple(recorded)
        )

    def close(self) -> None:
        """Free every scene; the environments must be reset before they are used again."""
        for scene in self._scenes.values():
            scene.close()
        self._scenes.clear()
        self._episodes = [None] * self.num_envs

    # Internals --------------------------------------------------------------------------------------------------

    def _scene(self, task: TaskSpec) -> Scene:
        key = (task.suite, task.task_id)
        if key in self._scenes:
            self._scenes.move_to_end(key)
            return self._scenes[key]
        while len(self._scenes) >= self._max_scenes:
            self._scenes.popitem(last=False)[1].close()
        scene = Scene(
            task,
            cameras=self._cameras,
            image_size=self._image_size,
            look=self._look,
            num_idle_steps=self._num_idle_steps,
            exact=self._exact,
        )
        self._scenes[key] = scene
        return scene

    def _frames(self, ids: list[int]) -> Frames:
        return Frames(
            images_BNHWC=self._images_BNHWC[ids],
            proprio_BP=self._proprio_BP[ids],
            languages=tuple(self._episode(env_id).task.language for env_id in ids),
        )

    def _episode(self, env_id: int) -> _Episode:
        episode = self._episodes[env_id]
        if episode is None:
            raise VectorEnvError(f"environment {env_id} has no episode: call reset() for it first")
        return episode

    def _check_ids(self, env_ids: Sequence[int] | None) -> list[int]:
        if env_ids is None:
            return list(range(self.num_envs))
        ids = [int(env_id) for env_id in env_ids]
        outside = [env_id for env_id in ids if not 0 <= env_id < self.num_envs]
        if outside:
            raise VectorEnvError(f"env_ids {outside} are out of range: there are environments 0 to {self.num_envs - 1}")
        if not ids or len(set(ids)) != len(ids):
            raise VectorEnvError(f"env_ids must be a non-empty list of different environments, given {ids}")
        return ids

    def _check_actions(self, actions_BCA: NDArray[np.float32], num_ids: int) -> NDArray[np.float64]:
        actions = np.asarray(actions_BCA, dtype=np.float64)
        if actions.ndim != 3 or actions.shape[0] != num_ids or actions.shape[1] < 1 or actions.shape[2] != ACTION_DIM:
            raise VectorEnvError(
                f"actions must have shape ({num_ids}, C, {ACTION_DIM}) with C >= 1 for {num_ids} environments, "
                f"given {actions.shape}"
            )
        if not np.isfinite(actions).all():
            first = tuple(int(k) for k in np.argwhere(~np.isfinite(actions))[0])
            raise VectorEnvError(f"actions must be finite, given {actions[first]} at index {first} of (B, C, A)")
        return actions

    @staticmethod
    def _check_limits(max_steps_B: Sequence[int] | None, num_ids: int, num_actions: int) -> list[int]:
        if max_steps_B is None:
            return [num_actions] * num_ids
        limits = [int(limit) for limit in max_steps_B]
        if len(limits) != num_ids or min(limits) < 0:
            raise VectorEnvError(
                f"max_steps_B must hold {num_ids} numbers of at least 0, one per environment, given {limits}"
            )
        return [min(limit, num_actions) for limit in limits]
