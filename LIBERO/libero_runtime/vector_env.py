"""Many LIBERO episodes in one process, advanced chunk by chunk on threads and rendered once per chunk.

B environments, C actions per chunk, A action dimensions, N cameras, P proprioception, H and W pixels.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from libero_runtime.exact_scene import ExactScene
from libero_runtime.rendering import Look
from libero_runtime.scene import Scene
from libero_runtime.scene_base import BaseScene
from libero_runtime.slots import Advance, SimulationError, Slot
from libero_runtime.suites import TaskSpec
from libero_runtime.vector_face import ChunkResult, EpisodeStart, Frames, VectorEnvError, VectorFace, check_options

__all__ = ["ChunkResult", "EpisodeStart", "Frames", "LiberoVectorEnv", "SimulationError", "VectorEnvError"]

_Result = TypeVar("_Result")
_Entry = TypeVar("_Entry")


@dataclass
class _Episode:
    start: EpisodeStart
    task: TaskSpec
    slot: Slot
    failure: str | None = None

    @property
    def task_key(self) -> tuple[str, int]:
        return self.start.suite, self.start.task_id


@dataclass(frozen=True)
class _Job:
    """One environment's share of a chunk."""

    row: int
    episode: _Episode
    actions_CA: NDArray[np.float64]
    record_every: int


@dataclass(frozen=True)
class _Drawn:
    """What came of a job."""

    slot: Slot
    success: list[bool]
    images_NHWC: NDArray[np.uint8]
    proprio: NDArray[np.float32]
    recorded: list[NDArray[np.uint8]]
    failure: str | None


class LiberoVectorEnv(VectorFace):
    """B episodes over any mix of tasks; episodes of a task share one compiled scene.

    In the manner of `gymnasium.vector.VectorEnv` (spaces, `metadata`, `render`), with chunks of actions. Autoreset is
    disabled: an episode that has ended stays as it is until `reset` names its environment.

    `num_threads` simulations run at the same time; the calling thread draws. Same bits whatever their number. Call it
    from one thread at a time, always the same one (OpenGL belongs to it). `exact=True` steps (and observes) in stock
    LIBERO's own order, bit for bit, at a fifth of the speed and on one thread; `look="official"` gives stock pixels. At
    most `max_scenes` compiled scenes are kept; the least recently used one is dropped and rebuilt when its episodes
    come up again.

    When MuJoCo's state of an episode goes bad (`on_failure`): "raise" finishes the chunk of the others, discards the
    episode and raises `SimulationError`; "freeze" leaves the episode as it was before the chunk, and says so in
    `ChunkResult.failures_B` of this and all further chunks until it is reset.
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
        num_threads: int = 1,
        on_failure: str = "raise",
    ) -> None:
        counts = {"num_envs": num_envs, "image_size": image_size, "max_scenes": max_scenes, "num_threads": num_threads}
        check_options(
            counts=counts, cameras=cameras, look=look, num_idle_steps=num_idle_steps, on_failure=on_failure
        )
        if exact and num_threads > 1:
            raise VectorEnvError(f"exact=True steps on one thread, given num_threads={num_threads}")
        super().__init__(num_envs=num_envs, cameras=cameras, image_size=image_size)
        self._look: Look = "official" if look == "official" else "fast"
        self._num_idle_steps = num_idle_steps
        self._max_scenes = max_scenes
        self._scene_type: type[BaseScene] = ExactScene if exact else Scene
        self._on_failure = on_failure
        self._pool = ThreadPoolExecutor(num_threads, "libero-step") if num_threads > 1 else None
        self._scenes: OrderedDict[tuple[str, int], BaseScene] = OrderedDict()
        self._episodes: list[_Episode | None] = [None] * num_envs

    # Episodes ---------------------------------------------------------------------------------------------------

    def reset(self, starts: Sequence[EpisodeStart], env_ids: Sequence[int] | None = None) -> Frames:
        """Begin `starts[i]` in environment `env_ids[i]` (all environments by default); the others are untouched.

        Objects fall for `num_idle_steps` with the gripper open before the first observation.
        """
        ids = self._check_ids(env_ids)
        tasks = self._check_starts(starts, len(ids))
        rows = sorted(range(len(ids)), key=lambda i: (starts[i].suite, starts[i].task_id))
        for wave in self._waves(rows, lambda row: (starts[row].suite, starts[row].task_id)):
            self._settle([(tasks[row], starts[row]) for row in wave])
            for row in wave:
                start, env_id = starts[row], ids[row]
                slot, view = self._scene(tasks[row]).start(init_index=start.init_index, seed=start.seed)
                self._episodes[env_id] = _Episode(start=start, task=tasks[row], slot=slot)
                self._images_BNHWC[env_id] = view.images_NHWC
                self._proprio_BP[env_id] = view.proprio
        return self._frames(ids)

    def _settle(self, wave: Sequence[tuple[TaskSpec, EpisodeStart]]) -> None:
        """Run the idle steps of all starts that are not known yet at the same time."""
        if self._pool is None:
            return
        jobs: dict[EpisodeStart, Callable[[], object]] = {}
        for task, start in wave:
            scene = self._scene(task)
            if start not in jobs and scene.settled(init_index=start.init_index, seed=start.seed) is None:
                slot = scene.prepare(init_index=start.init_index, seed=start.seed)

                def job(scene: BaseScene = scene, slot: Slot = slot) -> object:
                    with scene.borrowed_stepper() as stepper:
                        return scene.settle(slot, stepper)

                jobs[start] = job
        for _ in self._results(list(jobs.values())):
            pass

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
        actions = self._check_actions(actions_BCA, ids)
        num_actions = actions.shape[1]
        limits = self._check_limits(max_steps_B, len(ids), num_actions)
        if record_every < 0:
            raise VectorEnvError(f"record_every={record_every} must not be negative")
        episodes = [self._episode(env_id) for env_id in ids]
        success_BC = np.repeat(np.array([[episode.slot.success] for episode in episodes]), num_actions, axis=1)
        num_steps_B = np.zeros(len(ids), dtype=np.int64)
        recorded: list[NDArray[np.uint8]] = []
        jobs = [
            _Job(row, episode, actions[row, :limit], record_every if row == 0 else 0)
            for row, (episode, limit) in enumerate(zip(episodes, limits, strict=True))
            if limit and episode.failure is None and not (stop_on_success and episode.slot.success)
        ]
        jobs.sort(key=lambda job: job.episode.task_key)
        for wave in self._waves(jobs, lambda job: job.episode.task_key):
            for job, done in zip(wave, self._advance(wave, stop_on_success=stop_on_success), strict=True):
                steps, row = len(done.success), job.row
                num_steps_B[row] = steps
                if steps:
                    success_BC[row, :steps] = done.success
                    success_BC[row, steps:] = done.success[-1]
                recorded += done.recorded
                job.episode.failure = done.failure
                if done.failure is None:
                    self._images_BNHWC[ids[row]] = done.images_NHWC
                    self._proprio_BP[ids[row]] = done.proprio
                    job.episode.slot = done.slot
        failures = tuple(
            None if episode.failure is None else f"environment {env_id}: {episode.failure}"
            for env_id, episode in zip(ids, episodes, strict=True)
        )
        if self._on_failure == "raise" and any(failures):
            for env_id, failure in zip(ids, failures, strict=True):
                if failure is not None:
                    self._episodes[env_id] = None
            raise SimulationError("; ".join(failure for failure in failures if failure is not None))
        return ChunkResult(
            frames=self._frames(ids), success_BC=success_BC, num_steps_B=num_steps_B, recorded=tuple(recorded),
            failures_B=failures,
        )  # fmt: skip

    def close(self) -> None:
        """Free every scene and thread; the object cannot be used afterwards."""
        if self._pool is not None:
            self._pool.shutdown()
        for scene in self._scenes.values():
            scene.close()
        self._scenes.clear()
        self._episodes = [None] * self.num_envs

    # Internals --------------------------------------------------------------------------------------------------

    def _waves(self, entries: Sequence[_Entry], task_of: Callable[[_Entry], tuple[str, int]]) -> Iterator[list[_Entry]]:
        """Entries (sorted by task) in groups of at most `max_scenes` tasks: a group's scenes are alive together."""
        wave: list[_Entry] = []
        tasks: set[tuple[str, int]] = set()
        for entry in entries:
            if task_of(entry) not in tasks and len(tasks) == self._max_scenes:
                yield wave
                wave, tasks = [], set()
            wave.append(entry)
            tasks.add(task_of(entry))
        if wave:
            yield wave

    def _results(self, jobs: Sequence[Callable[[], _Result]]) -> Iterator[_Result]:
        """Results of jobs in their order, each as soon as it is there."""
        if self._pool is None:
            for job in jobs:
                yield job()
        else:
            futures = [self._pool.submit(job) for job in jobs]
            try:
                for future in futures:
                    yield future.result()
            finally:  # nothing may run on behind an exception
                for future in futures:
                    future.cancel()
                wait(futures)

    def _advance(self, wave: Sequence[_Job], *, stop_on_success: bool) -> Iterator[_Drawn]:
        """Run jobs, and draw each one's last state while the next ones run on their threads."""
        scenes = [self._scene(job.episode.task) for job in wave]
        def advance(scene: BaseScene, job: _Job) -> Advance:
            with nullcontext() if self._pool is None else scene.borrowed_stepper() as stepper:
                return scene.advance(
                    job.episode.slot, job.actions_CA, stop_on_success=stop_on_success, record_every=job.record_every,
                    stepper=stepper,
                )  # fmt: skip

        results = self._results([partial(advance, scene, job) for scene, job in zip(scenes, wave, strict=True)])
        if self._pool is None:
            results = iter(list(results))  # all steps first, then all frames: each finds its own data in the caches
        for scene, done in zip(scenes, results, strict=True):
            images = scene.images(done.slot) if done.failure is None else np.empty(0, np.uint8)
            recorded = [scene.images(slot, 1)[0] for slot in done.recorded]
            yield _Drawn(done.slot, done.success, images, done.proprio, recorded, done.failure)

    def _scene(self, task: TaskSpec) -> BaseScene:
        key = (task.suite, task.task_id)
        if key in self._scenes:
            self._scenes.move_to_end(key)
            return self._scenes[key]
        while len(self._scenes) >= self._max_scenes:
            self._scenes.popitem(last=False)[1].close()
        scene = self._scene_type(
            task,
            cameras=self._cameras,
            image_size=self._image_size,
            look=self._look,
            num_idle_steps=self._num_idle_steps,
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

    def describe(self, env_id: int) -> str:
        """An environment with what it is at, for messages."""
        episode = self._episodes[env_id]
        if episode is None:
            return f"environment {env_id}"
        start = episode.start
        return (
            f"environment {env_id} ({start.suite} task {start.task_id}, initial state {start.init_index}, seed "
            f"{start.seed}, step {episode.slot.num_steps})"
        )
