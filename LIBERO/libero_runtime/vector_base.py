"""What vector environments do alike, whether they simulate here (`vector_env`) or in workers (`process_env`).

B environments, C actions per chunk, N cameras, H and W pixels.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from libero_runtime.slots import SimulationError, View
from libero_runtime.vector_face import (
    ChunkResult,
    EpisodeStart,
    Frames,
    VectorEnvError,
    VectorFace,
    task_of,
    whole_number,
)


@dataclass(frozen=True)
class Begin:
    """An episode to begin in an environment."""

    env_id: int
    start: EpisodeStart


@dataclass(frozen=True)
class Job:
    """One environment's share of a chunk."""

    row: int  # of the call
    env_id: int
    actions_CA: NDArray[np.float64]  # at least one
    record_every: int


@dataclass(frozen=True)
class Done:
    """What came of a job."""

    success: list[bool]  # goal predicate after each simulated action
    view: View | None  # after the last one; None after a failure
    recorded: list[NDArray[np.uint8]]  # (H, W, 3)
    failure: str | None  # why the episode, left as it was before the job, cannot go on


class BaseVectorEnv(VectorFace):
    """B episodes: where each one is and what was seen of it last. How they run is `begin` and `advance`."""

    def __init__(self, *, num_envs: int, cameras: Sequence[str], image_size: int, on_failure: str) -> None:
        super().__init__(num_envs=num_envs, cameras=cameras, image_size=image_size)
        self._on_failure = on_failure
        self._starts: list[EpisodeStart | None] = [None] * num_envs
        self._failures: list[str | None] = [None] * num_envs
        self._success_B = np.zeros(num_envs, dtype=bool)
        self._num_steps_B = np.zeros(num_envs, dtype=np.int64)

    @abstractmethod
    def begin(self, begins: Sequence[Begin]) -> Iterator[tuple[int, View, bool]]:
        """Begin episodes, unchecked; yields environment, first view, and whether the goal is met already."""

    @abstractmethod
    def advance(self, jobs: Sequence[Job], *, stop_on_success: bool) -> Iterator[tuple[int, Done]]:
        """Run jobs, unchecked; yields each one's row and what came of it."""

    def reset(self, starts: Sequence[EpisodeStart], env_ids: Sequence[int] | None = None) -> Frames:
        """Begin `starts[i]` in environment `env_ids[i]` (all environments by default); the others are untouched.

        Objects fall for `num_idle_steps` with the gripper open before the first observation.
        """
        ids = self._check_ids(env_ids)
        self._check_starts(starts, len(ids))
        begins = [Begin(env_id, start) for env_id, start in zip(ids, starts, strict=True)]
        for entry in begins:
            self._starts[entry.env_id], self._failures[entry.env_id] = entry.start, None
        self._success_B[ids], self._num_steps_B[ids] = False, 0
        try:
            for env_id, view, success in self.begin(begins):
                self._see(env_id, view)
                self._success_B[env_id] = success
        except Exception:
            self._discard(ids)
            raise
        self._report(ids)
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
        actions = self._check_actions(actions_BCA, ids)
        limits = self._check_limits(max_steps_B, len(ids), actions.shape[1])
        if whole_number(record_every, "record_every") < 0:
            raise VectorEnvError(f"record_every={record_every} must not be negative")
        for env_id in ids:
            self._start(env_id)
        success_BC = np.repeat(self._success_B[ids][:, None], actions.shape[1], axis=1)
        num_steps_B = np.zeros(len(ids), dtype=np.int64)
        recorded: list[NDArray[np.uint8]] = []
        jobs = [
            Job(row, env_id, actions[row, :limit], record_every if row == 0 else 0)
            for row, (env_id, limit) in enumerate(zip(ids, limits, strict=True))
            if limit and self._failures[env_id] is None and not (stop_on_success and self._success_B[env_id])
        ]
        for row, done in self.advance(jobs, stop_on_success=stop_on_success):
            env_id, steps = ids[row], len(done.success)
            num_steps_B[row] = steps
            if steps:
                success_BC[row, :steps], success_BC[row, steps:] = done.success, done.success[-1]
            recorded += done.recorded
            if done.view is None:
                self._failures[env_id] = f"environment {env_id}: {done.failure}"
            else:
                self._see(env_id, done.view)
                self._success_B[env_id] = done.success[-1]
                self._num_steps_B[env_id] += steps
        failures = self._report(ids)
        return ChunkResult(
            frames=self._frames(ids), success_BC=success_BC, num_steps_B=num_steps_B, recorded=tuple(recorded),
            failures_B=failures,
        )  # fmt: skip

    def describe(self, env_id: int) -> str:
        """An environment with what it is at, for messages."""
        start = self._starts[env_id]
        if start is None:
            return f"environment {env_id}"
        return (
            f"environment {env_id} ({start.suite} task {start.task_id}, initial state {start.init_index}, seed "
            f"{start.seed}, step {self._num_steps_B[env_id]})"
        )

    def close(self) -> None:
        """Free everything; the object cannot be used afterwards."""
        self._discard(range(self.num_envs))

    def _start(self, env_id: int) -> EpisodeStart:
        start = self._starts[env_id]
        if start is None:
            raise VectorEnvError(f"environment {env_id} has no episode: call reset() for it first")
        return start

    def _discard(self, env_ids: Sequence[int]) -> None:
        for env_id in env_ids:
            self._starts[env_id] = self._failures[env_id] = None

    def _see(self, env_id: int, view: View) -> None:
        self._images_BNHWC[env_id], self._proprio_BP[env_id] = view.images_NHWC, view.proprio

    def _report(self, ids: Sequence[int]) -> tuple[str | None, ...]:
        """Failures of a call's environments. With `on_failure="raise"`, any failure discards its episode and raises."""
        failed = {env_id: failure for env_id, failure in enumerate(self._failures) if failure is not None}
        if self._on_failure == "raise" and failed:
            self._discard(list(failed))
            raise SimulationError("; ".join(failed.values()))
        return tuple(failed.get(env_id) for env_id in ids)

    def _frames(self, ids: list[int]) -> Frames:
        return Frames(
            images_BNHWC=self._images_BNHWC[ids],
            proprio_BP=self._proprio_BP[ids],
            languages=tuple(task_of(self._start(env_id)).language for env_id in ids),
        )
