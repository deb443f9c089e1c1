"""What a recording run consists of: its options, its attempts, and which of them come next."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count, islice, takewhile

import numpy as np

from libero_runtime.demos.episodes import EpisodeOptions, EpisodePlan

ATTEMPTS_PER_EPISODE = 4  # give a task up when this many attempts per wanted episode did not suffice
_WRITTEN_AT_ONCE = 16


class DemonstrationError(ValueError):
    """Options that do not fit, or a run that cannot produce what was asked for."""


@dataclass(frozen=True)
class RunOptions:
    """Everything that decides what is recorded."""

    suite: str
    tasks: tuple[int, ...]
    episodes_per_task: int
    seed: int
    init_indices: tuple[int, ...]
    cameras: tuple[str, ...]
    image_size: int
    compression: str
    episode: EpisodeOptions


@dataclass(frozen=True)
class Write:
    """To add some attempts' demonstrations to a task's file, which holds `first` already."""

    task_id: int
    first: int
    attempts: tuple[int, ...]
    last: bool  # the file is complete then


Job = EpisodePlan | Write


def plan_attempt(options: RunOptions, task_id: int, attempt: int) -> EpisodePlan:
    """The attempt-th episode of a task: initial states in turn, seeds from the run's seed."""
    scene_seed, seed = np.random.SeedSequence([options.seed, task_id, attempt]).generate_state(2)
    return EpisodePlan(
        task_id=task_id,
        attempt=attempt,
        init_index=options.init_indices[attempt % len(options.init_indices)],
        scene_seed=int(scene_seed),
        seed=int(seed),
    )


class TaskProgress:
    """How far a task is. Kept are the first successful attempts by number, whatever order they end in."""

    def __init__(self, task_id: int, num_wanted: int, made: Mapping[int, bool] | None = None) -> None:
        """made: whether each attempt of an earlier run succeeded."""
        self.task_id = task_id
        self.num_wanted = num_wanted
        self.made = dict(made or {})
        self.running: set[int] = set()
        self.num_written = 0
        self.is_writing = False
        self.is_written = False
        self._choose()

    def _choose(self) -> None:
        """Choose the first attempts that have not failed."""
        self.wanted = list(islice((attempt for attempt in count() if self.made.get(attempt, True)), self.num_wanted))
        if self.wanted[-1] >= self._limit:
            num_made = sum(self.made.get(attempt, False) for attempt in range(self._limit))
            raise DemonstrationError(
                f"task {self.task_id}: only {num_made} of {self.num_wanted} demonstrations after {self._limit} "
                f"attempts; lower --noise or --init-jitter, or raise --max-steps"
            )

    @property
    def _limit(self) -> int:
        return ATTEMPTS_PER_EPISODE * self.num_wanted

    @property
    def num_kept(self) -> int:
        """How many of the wanted demonstrations are there."""
        return sum(attempt in self.made for attempt in self.wanted)

    @property
    def pending(self) -> list[int]:
        """Attempts that have to be made, whatever comes of those that are running."""
        return [attempt for attempt in self.wanted if attempt not in self.made and attempt not in self.running]

    @property
    def room_ahead(self) -> int:
        """How many attempts may be made besides, in case running ones fail, by workers with nothing else to do."""
        if self._next_attempt() >= self._limit:
            return 0
        ahead = [attempt for attempt in (*self.made, *self.running) if attempt > self.wanted[-1]]
        return self.num_wanted - self.num_kept - len(ahead)

    def _next_attempt(self) -> int:
        return next(attempt for attempt in count() if attempt not in self.made and attempt not in self.running)

    def next_attempt(self) -> int:
        """Begin the first attempt that has not been made."""
        attempt = self._next_attempt()
        self.running.add(attempt)
        return attempt

    def next_write(self) -> Write | None:
        """Begin to write what nothing can come before any more, one process at a time.

        Files grow as the run goes on: all tasks end at about the same time, and writing a whole file takes seconds.
        """
        settled = list(takewhile(self.made.__contains__, self.wanted))
        last = len(settled) == self.num_wanted
        attempts = tuple(settled[self.num_written :])
        if self.is_writing or self.is_written or not (last or len(attempts) >= _WRITTEN_AT_ONCE):
            return None
        self.is_writing = True
        return Write(self.task_id, self.num_written, attempts, last)

    def finish(self, job: Job, *, success: bool) -> None:
        """A job is done; an attempt that failed is replaced by one more."""
        if isinstance(job, Write):
            self.is_writing = False
            self.is_written = job.last
            self.num_written += len(job.attempts)
        else:
            self.running.discard(job.attempt)
            self.made[job.attempt] = success
            self._choose()

    def forget(self, job: Job) -> None:
        """A job came to no end: it has to be done again."""
        if isinstance(job, Write):
            self.is_writing, self.num_written = False, 0  # who knows what is in the file
        else:
            self.running.discard(job.attempt)


def next_job(
    options: RunOptions, tasks: Sequence[TaskProgress], scene: int | None, num_scenes: Counter[int]
) -> Job | None:
    """For a worker that has the scene of a task; `num_scenes` workers have that of each.

    It stays with the task whose scene is compiled; else it helps where most attempts wait per worker. When none wait,
    it runs ahead: otherwise a task ends with one worker that replaces failure after failure.
    """
    for task in tasks:
        if (write := task.next_write()) is not None:
            return write
    pending = {task: len(task.pending) / (1 + num_scenes[task.task_id]) for task in tasks if task.pending}
    ahead = {task: task.room_ahead for task in tasks if task.room_ahead > 0}
    choice = pending or ahead
    if not choice:
        return None
    chosen = max(choice, key=lambda task: (task.task_id == scene, choice[task]))
    return plan_attempt(options, chosen.task_id, chosen.next_attempt())
