"""Many LIBERO episodes in one process, advanced chunk by chunk on threads and rendered once per chunk.

B environments, C actions per chunk, A action dimensions, N cameras, P proprioception, H and W pixels.
"""

from collections import OrderedDict
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, closing, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from itertools import chain, groupby
from typing import TypeVar

from libero_runtime.opengl import select_opengl
from libero_runtime.paths import LiberoPathError, Quality
from libero_runtime.sim.exact_scene import ExactScene
from libero_runtime.sim.scene import Scene
from libero_runtime.sim.state import Advance, EpisodeState, SimulationError, View
from libero_runtime.suites import SuiteError, TaskSpec
from libero_runtime.vector.base import BaseVectorEnv
from libero_runtime.vector.types import (
    ChunkError,
    ChunkResult,
    EpisodeStart,
    Frames,
    Job,
    Outcome,
    StartError,
    VectorEnvError,
    task_of,
)

__all__ = [
    "ChunkError",
    "ChunkResult",
    "EpisodeStart",
    "Frames",
    "LiberoVectorEnv",
    "SimulationError",
    "StartError",
    "VectorEnvError",
]

_START_ERRORS = (SuiteError, LiberoPathError, SimulationError)  # why one episode cannot begin and others can
_Result = TypeVar("_Result")
_TaskKey = tuple[str, int]


@dataclass
class _Episode:
    task: TaskSpec
    state: EpisodeState

    @property
    def task_key(self) -> _TaskKey:
        return self.task.suite, self.task.task_id


class LiberoVectorEnv(BaseVectorEnv):
    """B episodes over any mix of tasks; episodes of a task share one compiled scene.

    In the manner of `gymnasium.vector.VectorEnv` (spaces, `metadata`, `render`), with chunks of actions; `gym`
    makes it one. Autoreset is disabled: an episode that has ended stays as it is until `reset` names its environment.

    `num_threads` simulations run at the same time; the calling thread draws. Same bits whatever their number. Call it
    from one thread at a time, always the same one (OpenGL belongs to it). `exact=True` steps (and observes) in stock
    LIBERO's own order, bit for bit, at a fifth of the speed and on one thread; `quality="official"` gives stock pixels.
    At most `max_scenes` compiled scenes are kept; the least recently used one is dropped and rebuilt when its episodes
    come up again.

    When MuJoCo's state of an episode goes bad, or a start cannot be had (`on_failure`): "raise" serves the others,
    discards the episode and raises `ChunkError` or `StartError`, which hold the results of the others; "freeze" leaves
    the episode as it was before the chunk, and says so in `failures_B` of this and all further results until it is
    reset.
    """

    def __init__(
        self,
        *,
        num_envs: int,
        cameras: Sequence[str] = ("agentview",),
        image_size: int = 256,
        quality: str = "fast",
        num_idle_steps: int = 10,
        max_scenes: int = 10,
        exact: bool = False,
        num_threads: int = 1,
        on_failure: str = "raise",
        watch: Callable[[str], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        """watch: what the thread of the caller is about to do, for somebody who takes the time."""
        super().__init__(
            num_envs=num_envs,
            cameras=cameras,
            image_size=image_size,
            quality=quality,
            num_idle_steps=num_idle_steps,
            max_scenes=max_scenes,
            num_threads=num_threads,
            on_failure=on_failure,
        )
        if exact and num_threads > 1:
            raise VectorEnvError(f"exact=True steps on one thread, given num_threads={num_threads}")
        select_opengl()  # where there is none, nobody has to wait for a reset to hear of it
        self._quality: Quality = "official" if quality == "official" else "fast"
        self._num_idle_steps = num_idle_steps
        self._max_scenes = max_scenes
        self._watch = watch
        self._scene_type: type[Scene] = ExactScene if exact else Scene
        self._pool = ThreadPoolExecutor(num_threads, "libero-step") if num_threads > 1 else None
        self._scenes: OrderedDict[_TaskKey, Scene] = OrderedDict()
        self._episodes: dict[int, _Episode] = {}  # by environment

    # Episodes ---------------------------------------------------------------------------------------------------

    def begin(self, starts: Mapping[int, EpisodeStart]) -> Generator[tuple[int, Outcome], None, None]:
        """Begin episodes by environment; yields what came of each. One that cannot begin spares the others."""
        for wave in self._waves(starts, lambda env_id: (starts[env_id].suite, starts[env_id].task_id)):
            self._settle([starts[env_id] for env_id in wave])
            for env_id in wave:
                yield env_id, self._begin_one(env_id, starts[env_id])

    def _begin_one(self, env_id: int, start: EpisodeStart) -> Outcome:
        self._episodes.pop(env_id, None)
        try:
            task = task_of(start)
            state, view = self._scene(task).start(init_index=start.init_index, seed=start.seed)
        except _START_ERRORS as error:
            return Outcome(None, [], failure=str(error))
        self._episodes[env_id] = _Episode(task, state)
        return Outcome(view, [state.success])

    def _settle(self, starts: Sequence[EpisodeStart]) -> None:
        """Run the idle steps of all starts that are not known yet at the same time. `_begin_one` meets errors again."""
        if self._pool is None:
            return
        jobs: dict[EpisodeStart, Callable[[], None]] = {}
        for start in dict.fromkeys(starts):
            with suppress(*_START_ERRORS):
                scene = self._scene(task_of(start))
                if scene.settled(init_index=start.init_index, seed=start.seed) is None:
                    state = scene.prepare(init_index=start.init_index, seed=start.seed)
                    jobs[start] = partial(self._settle_one, scene, state)
        with closing(self._results(list(jobs.values()))) as results:
            for _ in results:
                pass

    @staticmethod
    def _settle_one(scene: Scene, state: EpisodeState) -> None:
        with suppress(*_START_ERRORS), scene.borrowed_stepper() as stepper:
            scene.settle(state, stepper)

    def advance(self, jobs: Mapping[int, Job], stop_on_success: bool) -> Generator[tuple[int, Outcome], None, None]:
        """Run jobs, unchecked, and draw each one's last state while the next ones run on their threads."""
        episodes = self._episodes
        for wave in self._waves(jobs, lambda env_id: episodes[env_id].task_key):
            scenes = [self._scene(episodes[env_id].task) for env_id in wave]
            runs = [
                partial(self._run, scene, episodes[env_id].state, jobs[env_id], stop_on_success)
                for scene, env_id in zip(scenes, wave, strict=True)
            ]
            with closing(self._results(runs)) as each:
                # On one thread all steps first, then all frames: each finds its own data in the caches.
                with self._watch("simulate"):
                    results: Iterator[Advance] = each if self._pool is not None else iter(list(each))
                for scene, env_id, done in zip(scenes, wave, results, strict=True):
                    view = None
                    if done.failure is None:
                        with self._watch("draw"):
                            view = View(images_NHWC=scene.images(done.state), proprio=done.proprio)
                        episodes[env_id].state = done.state
                    recorded = [scene.images(state, 1)[0] for state in done.recorded]
                    yield env_id, Outcome(view, done.success, recorded, done.failure)

    def _run(self, scene: Scene, state: EpisodeState, job: Job, stop_on_success: bool) -> Advance:
        """A job's steps."""
        with nullcontext() if self._pool is None else scene.borrowed_stepper() as stepper:
            return scene.advance(
                state, job.actions_CA, stop_on_success=stop_on_success, record_every=job.record_every, stepper=stepper
            )

    def close(self) -> None:
        """Free every scene and thread; the object cannot be used afterwards. A second call does nothing."""
        if self._pool is not None:
            self._pool.shutdown()
        for scene in self._scenes.values():
            scene.close()
        self._scenes.clear()
        self._episodes.clear()
        super().close()

    # Internals --------------------------------------------------------------------------------------------------

    def _waves(self, env_ids: Iterable[int], task_key: Callable[[int], _TaskKey]) -> Iterator[list[int]]:
        """Environments by task, in groups of at most `max_scenes` tasks: a group's scenes are alive together."""
        by_task = [list(group) for _, group in groupby(sorted(env_ids, key=task_key), task_key)]
        for first in range(0, len(by_task), self._max_scenes):
            yield list(chain.from_iterable(by_task[first : first + self._max_scenes]))

    def _results(self, jobs: Sequence[Callable[[], _Result]]) -> Generator[_Result, None, None]:
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

    def _scene(self, task: TaskSpec) -> Scene:
        key = (task.suite, task.task_id)
        if key in self._scenes:
            self._scenes.move_to_end(key)
            return self._scenes[key]
        while len(self._scenes) >= self._max_scenes:
            self._scenes.popitem(last=False)[1].close()
        with self._watch("build scene"):
            scene = self._scene_type(
                task,
                cameras=self._cameras,
                image_size=self._image_size,
                quality=self._quality,
                num_idle_steps=self._num_idle_steps,
            )
        self._scenes[key] = scene
        return scene
