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

from libero_runtime.exact_scene import ExactScene
from libero_runtime.rendering import Look
from libero_runtime.scene import Scene
from libero_runtime.scene_base import BaseScene
from libero_runtime.slots import Advance, SimulationError, Slot, View
from libero_runtime.suites import TaskSpec
from libero_runtime.vector_base import BaseVectorEnv, Begin, Done, Job
from libero_runtime.vector_face import ChunkResult, EpisodeStart, Frames, VectorEnvError, check_options, task_of

__all__ = ["ChunkResult", "EpisodeStart", "Frames", "LiberoVectorEnv", "SimulationError", "VectorEnvError"]

_Result = TypeVar("_Result")
_Entry = TypeVar("_Entry")
_TaskKey = tuple[str, int]


@dataclass
class _Episode:
    task: TaskSpec
    slot: Slot

    @property
    def task_key(self) -> _TaskKey:
        return self.task.suite, self.task.task_id


class LiberoVectorEnv(BaseVectorEnv):
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
        super().__init__(num_envs=num_envs, cameras=cameras, image_size=image_size, on_failure=on_failure)
        self._look: Look = "official" if look == "official" else "fast"
        self._num_idle_steps = num_idle_steps
        self._max_scenes = max_scenes
        self._scene_type: type[BaseScene] = ExactScene if exact else Scene
        self._pool = ThreadPoolExecutor(num_threads, "libero-step") if num_threads > 1 else None
        self._scenes: OrderedDict[_TaskKey, BaseScene] = OrderedDict()
        self._episodes: list[_Episode | None] = [None] * num_envs

    # Episodes ---------------------------------------------------------------------------------------------------

    def begin(self, begins: Sequence[Begin]) -> Iterator[tuple[int, View, bool]]:
        """Begin episodes, unchecked; yields environment, first view, and whether the goal is met already."""

        def task_key(entry: Begin) -> _TaskKey:
            return entry.start.suite, entry.start.task_id

        for wave in self._waves(sorted(begins, key=task_key), task_key):
            self._settle([entry.start for entry in wave])
            for entry in wave:
                start, task = entry.start, task_of(entry.start)
                slot, view = self._scene(task).start(init_index=start.init_index, seed=start.seed)
                self._episodes[entry.env_id] = _Episode(task, slot)
                yield entry.env_id, view, slot.success

    def _settle(self, starts: Sequence[EpisodeStart]) -> None:
        """Run the idle steps of all starts that are not known yet at the same time."""
        if self._pool is None:
            return
        jobs: dict[EpisodeStart, Callable[[], object]] = {}
        for start in starts:
            scene = self._scene(task_of(start))
            if start not in jobs and scene.settled(init_index=start.init_index, seed=start.seed) is None:
                slot = scene.prepare(init_index=start.init_index, seed=start.seed)

                def job(scene: BaseScene = scene, slot: Slot = slot) -> object:
                    with scene.borrowed_stepper() as stepper:
                        return scene.settle(slot, stepper)

                jobs[start] = job
        for _ in self._results(list(jobs.values())):
            pass

    def advance(self, jobs: Sequence[Job], *, stop_on_success: bool) -> Iterator[tuple[int, Done]]:
        """Run jobs, unchecked, and draw each one's last state while the next ones run on their threads."""

        def task_key(job: Job) -> _TaskKey:
            return self._episode(job).task_key

        for wave in self._waves(sorted(jobs, key=task_key), task_key):
            scenes = [self._scene(self._episode(job).task) for job in wave]
            results = self._results([
                partial(self._run, scene, job, stop_on_success) for scene, job in zip(scenes, wave, strict=True)
            ])  # fmt: skip
            if self._pool is None:
                results = iter(list(results))  # all steps first, then all frames: each finds its own data in the caches
            for scene, job, done in zip(scenes, wave, results, strict=True):
                view = None
                if done.failure is None:
                    view = View(images_NHWC=scene.images(done.slot), proprio=done.proprio)
                    self._episode(job).slot = done.slot
                recorded = [scene.images(slot, 1)[0] for slot in done.recorded]
                yield job.row, Done(done.success, view, recorded, done.failure)

    def _run(self, scene: BaseScene, job: Job, stop_on_success: bool) -> Advance:
        """A job's steps."""
        with nullcontext() if self._pool is None else scene.borrowed_stepper() as stepper:
            return scene.advance(
                self._episode(job).slot, job.actions_CA, stop_on_success=stop_on_success,
                record_every=job.record_every, stepper=stepper,
            )  # fmt: skip

    def close(self) -> None:
        """Free every scene and thread; the object cannot be used afterwards."""
        if self._pool is not None:
            self._pool.shutdown()
        for scene in self._scenes.values():
            scene.close()
        self._scenes.clear()
        self._episodes = [None] * self.num_envs
        super().close()

    # Internals --------------------------------------------------------------------------------------------------

    def _waves(self, entries: Sequence[_Entry], task_key: Callable[[_Entry], _TaskKey]) -> Iterator[list[_Entry]]:
        """Entries (sorted by task) in groups of at most `max_scenes` tasks: a group's scenes are alive together."""
        wave: list[_Entry] = []
        tasks: set[_TaskKey] = set()
        for entry in entries:
            if task_key(entry) not in tasks and len(tasks) == self._max_scenes:
                yield wave
                wave, tasks = [], set()
            wave.append(entry)
            tasks.add(task_key(entry))
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

    def _episode(self, job: Job) -> _Episode:
        episode = self._episodes[job.env_id]
        if episode is None:
            raise VectorEnvError(f"environment {job.env_id} has no episode: call reset() for it first")
        return episode
