"""What a recording run consists of: its options, its attempts, and what is still to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count, islice, takewhile

import numpy as np

from libero_runtime.demos.episodes import EpisodeOptions, EpisodePlan

ATTEMPTS_PER_EPISODE = 4  # give a task up when this many attempts per wanted episode did not suffice
_MERGE_AT_ONCE = 16


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
class EpisodeReport:
    """What a worker answers."""

    task_id: int
    attempt: int
    success: bool
    num_steps: int


@dataclass(frozen=True)
class Merge:
    """To add the demonstrations of some attempts to a task's file, which holds `first` already."""

    task_id: int
    first: int
    attempts: tuple[int, ...]
    last: bool  # the file is complete then


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


class TaskBook:
    """Keeps count of a task's attempts. Kept are the first successful ones by number, whatever order they end in."""

    def __init__(self, task_id: int, num_wanted: int) -> None:
        self.task_id = task_id
        self.num_wanted = num_wanted
        self._made: dict[int, EpisodeReport] = {}
        self._running: set[int] = set()
        self._wanted = list(range(num_wanted))  # the first attempts that have not failed

    @property
    def pending(self) -> list[int]:
        """Attempts that have to be made, whatever comes of those that are running."""
        return [attempt for attempt in self._wanted if attempt not in self._made and attempt not in self._running]

    @property
    def successes(self) -> list[int]:
        """Attempts that are kept."""
        return [attempt for attempt in self._wanted if attempt in self._made]

    @property
    def settled(self) -> list[int]:
        """Of the attempts that are kept, those that nothing can come before any more."""
        return list(takewhile(lambda attempt: attempt in self._made, self._wanted))

    @property
    def lengths(self) -> list[int]:
        """Steps of each of them."""
        return [self._made[attempt].num_steps for attempt in self.successes]

    @property
    def complete(self) -> bool:
        """Whether all wanted demonstrations are there."""
        return len(self.successes) == self.num_wanted

    @property
    def num_attempts(self) -> int:
        """How many it takes, as far as is known."""
        return self._wanted[-1] + 1

    @property
    def room_ahead(self) -> int:
        """How many attempts may be made besides, in case running ones fail, by workers with nothing else to do."""
        if self._next() >= self._limit:
            return 0
        ahead = [attempt for attempt in (*self._made, *self._running) if attempt > self._wanted[-1]]
        return self.num_wanted - len(self.successes) - len(ahead)

    @property
    def _limit(self) -> int:
        return ATTEMPTS_PER_EPISODE * self.num_wanted

    def _next(self) -> int:
        return next(attempt for attempt in count() if attempt not in self._made and attempt not in self._running)

    def next_attempt(self) -> int:
        """Begin the first attempt that has not been made."""
        attempt = self._next()
        self._running.add(attempt)
        return attempt

    def recall(self, reports: Sequence[EpisodeReport]) -> None:
        """Book all attempts of an earlier run: they are not made again."""
        self._made |= {report.attempt: report for report in reports}
        self._choose()

    def finish(self, report: EpisodeReport) -> None:
        """Book a result; a failure is replaced by one more attempt."""
        self._running.discard(report.attempt)
        self._made[report.attempt] = report
        self._choose()

    def forget(self, attempt: int) -> None:
        """An attempt came to no end: it has to be made again, as it decides which demonstrations are kept."""
        self._running.discard(attempt)

    def _choose(self) -> None:
        failed = {attempt for attempt, report in self._made.items() if not report.success}
        self._wanted = list(islice((attempt for attempt in count() if attempt not in failed), self.num_wanted))
        if self._wanted[-1] >= self._limit:
            raise DemonstrationError(
                f"task {self.task_id}: only {sum(attempt < self._limit for attempt in self.successes)} of "
                f"{self.num_wanted} demonstrations after {self._limit} attempts; lower --noise or --init-jitter, or "
                f"raise --max-steps"
            )


class Schedule:
    """What each worker does next, until every task's file is written."""

    def __init__(self, options: RunOptions, books: Sequence[TaskBook]) -> None:
        self._options = options
        self._books = {book.task_id: book for book in books}
        self._open = {book.task_id for book in books if not book.complete}
        self._num_merged = dict.fromkeys(self._books, 0)  # of the tasks whose file is not complete
        self._merging: set[int] = set()

    @property
    def finished(self) -> bool:
        """Whether every file is written."""
        return not self._num_merged

    @property
    def num_jobs(self) -> int:
        """How much is known to be left."""
        return sum(max(1, len(book.pending)) for book in self._books.values())

    def next_job(self, task_id: int | None, num_workers: Mapping[int, int]) -> EpisodePlan | Merge | None:
        """For a worker that has the scene of a task; `num_workers` have that of each."""
        merge = self._next_merge()
        if merge is not None:
            self._merging.add(merge.task_id)
            return merge
        book = self._choose(task_id, num_workers)
        return None if book is None else plan_attempt(self._options, book.task_id, book.next_attempt())

    def _next_merge(self) -> Merge | None:
        """Files grow as the run goes on: all tasks end at about the same time, and writing one takes seconds."""
        for task_id, first in self._num_merged.items():
            last = task_id not in self._open
            attempts = self._books[task_id].settled[first:]
            if task_id not in self._merging and (last or len(attempts) >= _MERGE_AT_ONCE):
                return Merge(task_id, first, tuple(attempts), last)
        return None

    def _choose(self, task_id: int | None, num_workers: Mapping[int, int]) -> TaskBook | None:
        """Stay with the task whose scene is compiled; else help where most attempts wait per worker.

        When none wait, run ahead: otherwise a task ends with one worker that replaces failure after failure.
        """
        pending = {book.task_id: len(book.pending) for book in self._books.values() if book.pending}
        if pending:
            most = max(pending, key=lambda task: pending[task] / (1 + num_workers.get(task, 0)))
            return self._books[task_id if task_id is not None and task_id in pending else most]
        ahead = [book for book in self._books.values() if book.room_ahead > 0]
        return max(ahead, key=lambda book: (book.task_id == task_id, book.room_ahead), default=None)

    def finish(self, job: EpisodePlan | Merge, answer: EpisodeReport | Merge | None) -> None:
        """Book what became of a job; None when its worker died."""
        if isinstance(job, Merge):
            self._merging.remove(job.task_id)
            if answer is None:
                self._num_merged[job.task_id] = 0  # who knows what is in the file
            elif job.last:
                del self._num_merged[job.task_id]
            else:
                self._num_merged[job.task_id] += len(job.attempts)
            return
        if job.task_id not in self._open:
            return  # it ran ahead and was not needed
        book = self._books[job.task_id]
        if not isinstance(answer, EpisodeReport):
            book.forget(job.attempt)
            return
        book.finish(answer)
        if book.complete:
            self._open.remove(book.task_id)
