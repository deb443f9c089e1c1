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
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from libero_runtime.kernel import ACTION_DIM
from libero_runtime.rendering import LOOKS, Look
from libero_runtime.scene import PROPRIO_DIM, Scene, SimulationError
from libero_runtime.slots import Advance, Slot, check_start
from libero_runtime.suites import TaskSpec, load_suite

__all__ = ["ChunkResult", "EpisodeStart", "Frames", "LiberoVectorEnv", "SimulationError", "VectorEnvError"]

_Result = TypeVar("_Result")
_Entry = TypeVar("_Entry")
ON_FAILURE = ("raise", "freeze")


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
    failures_B: tuple[str | None, ...] = ()  # why an episode cannot go on (MuJoCo's state went bad), else None


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


class LiberoVectorEnv:
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

    render_mode = "rgb_array"

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
        for name, value in (
            ("num_envs", num_envs),
            ("image_size", image_size),
            ("max_scenes", max_scenes),
            ("num_threads", num_threads),
        ):
            if value < 1:
                raise VectorEnvError(f"{name}={value} must be at least 1")
        if num_idle_steps < 0:
            raise VectorEnvError(f"num_idle_steps={num_idle_steps} must not be negative")
        if look not in LOOKS:
            raise VectorEnvError(f"look={look!r} must be one of {', '.join(LOOKS)}")
        if on_failure not in ON_FAILURE:
            raise VectorEnvError(f"on_failure={on_failure!r} must be one of {', '.join(ON_FAILURE)}")
        if not cameras or isinstance(cameras, str):
            raise VectorEnvError(f"cameras={cameras!r} must be a non-empty sequence of camera names")
        if exact and num_threads > 1:
            raise VectorEnvError(f"exact=True steps on one thread, given num_threads={num_threads}")
        self.num_envs = num_envs
        self._cameras = tuple(cameras)
        self._image_size = image_size
        self._look: Look = "official" if look == "official" else "fast"
        self._num_idle_steps = num_idle_steps
        self._max_scenes = max_scenes
        self._exact = exact
        self._on_failure = on_failure
        self._pool = ThreadPoolExecutor(num_threads, "libero-step") if num_threads > 1 else None
        self._scenes: OrderedDict[tuple[str, int], Scene] = OrderedDict()
        self._episodes: list[_Episode | None] = [None] * num_envs
        self._images_BNHWC = np.zeros((num_envs, len(cameras), image_size, image_size, 3), dtype=np.uint8)
        self._proprio_BP = np.zeros((num_envs, PROPRIO_DIM), dtype=np.float32)

    # Gymnasium's vocabulary -------------------------------------------------------------------------------------

    @property
    def metadata(self) -> dict[str, Any]:
        """Autoreset mode and render modes, under Gymnasium's keys."""
        from gymnasium.vector import AutoresetMode

        return {"autoreset_mode": AutoresetMode.DISABLED, "render_modes": ["rgb_array"], "render_fps": 20}

    @property
    def single_action_space(self) -> Any:
        """Of one action (7,): six OSC deltas, and the gripper, -1 open, +1 close."""
        from gymnasium import spaces

        return spaces.Box(-1.0, 1.0, (ACTION_DIM,), np.float32)

    @property
    def single_observation_space(self) -> Any:
        """Of one environment's row of `Frames`: `images` (N, H, W, 3) and `proprio` (8,)."""
        from gymnasium import spaces

        size = self._image_size
        return spaces.Dict({
            "images": spaces.Box(0, 255, (len(self._cameras), size, size, 3), np.uint8),
            "proprio": spaces.Box(-np.inf, np.inf, (PROPRIO_DIM,), np.float32),
        })

    @property
    def action_space(self) -> Any:
        """Of one action in every environment (B, 7); `step_chunk` takes C of them, (B, C, 7)."""
        from gymnasium.vector.utils import batch_space

        return batch_space(self.single_action_space, self.num_envs)

    @property
    def observation_space(self) -> Any:
        """Of the observations of all environments."""
        from gymnasium.vector.utils import batch_space

        return batch_space(self.single_observation_space, self.num_envs)

    def render(self, env_ids: Sequence[int] | None = None) -> NDArray[np.uint8]:
        """Last observed images (B, H, W, 3) of the first camera; `record_every` of `step_chunk` sees more."""
        return self._images_BNHWC[self._check_ids(env_ids), 0]

    # Episodes ---------------------------------------------------------------------------------------------------

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

                def job(scene: Scene = scene, slot: Slot = slot) -> object:
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
        """Run jobs, and draw each one's last state while the next ones run."""
        scenes = [self._scene(job.episode.task) for job in wave]
        if self._exact:
            for scene, job in zip(scenes, wave, strict=True):
                scene.load(job.episode.slot)
                outcome = scene.run(job.actions_CA, stop_on_success=stop_on_success, record_every=job.record_every)
                view = outcome.view
                yield _Drawn(
                    scene.save(), outcome.success, view.images_NHWC, view.proprio, outcome.recorded, failure=None
                )
            return

        def advance(scene: Scene, job: _Job) -> Advance:
            with nullcontext() if self._pool is None else scene.borrowed_stepper() as stepper:
                return scene.advance(
                    job.episode.slot, job.actions_CA, stop_on_success=stop_on_success, record_every=job.record_every,
                    stepper=stepper,
                )  # fmt: skip

        results = self._results([partial(advance, scene, job) for scene, job in zip(scenes, wave, strict=True)])
        for scene, done in zip(scenes, results, strict=True):
            images = scene.draw(done.slot.pose) if done.failure is None else np.empty(0, np.uint8)
            recorded = [scene.draw(pose, 1)[0] for pose in done.recorded]
            yield _Drawn(done.slot, done.success, images, done.proprio, recorded, done.failure)

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

    def _check_actions(self, actions_BCA: NDArray[np.float32], ids: list[int]) -> NDArray[np.float64]:
        actions = np.asarray(actions_BCA, dtype=np.float64)
        num_ids = len(ids)
        if actions.ndim != 3 or actions.shape[0] != num_ids or actions.shape[1] < 1 or actions.shape[2] != ACTION_DIM:
            raise VectorEnvError(
                f"actions must have shape ({num_ids}, C, {ACTION_DIM}) with C >= 1 for {num_ids} environments, "
                f"given {actions.shape}"
            )
        if not np.isfinite(actions).all():
            first = tuple(int(k) for k in np.argwhere(~np.isfinite(actions))[0])
            raise VectorEnvError(
                f"actions must be finite, given {actions[first]} at index {first} of (B, C, A), which is for "
                f"{self._name(ids[first[0]])}"
            )
        return actions

    def _name(self, env_id: int) -> str:
        """An environment with what it is at."""
        episode = self._episodes[env_id]
        if episode is None:
            return f"environment {env_id}"
        start = episode.start
        return (
            f"environment {env_id} ({start.suite} task {start.task_id}, initial state {start.init_index}, seed "
            f"{start.seed}, step {episode.slot.num_steps})"
        )

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
