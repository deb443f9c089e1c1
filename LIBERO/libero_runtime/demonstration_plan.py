"""What a recording run consists of: its options, its attempts, and what is still to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from libero_runtime.episodes import EpisodeOptions, EpisodePlan

ATTEMPTS_PER_EPISODE = 4  # give a task up when this many attempts per wanted episode did not suffice


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
    """Keeps count of a task's attempts: those to do, running, and done."""

    def __init__(self, task_id: int, num_wanted: int) -> None:
        self.task_id = task_id
        self.num_wanted = num_wanted
        self.pending = list(range(num_wanted))[::-1]
        self.num_running = 0
        self.successes: list[int] = []
        self.lengths: list[int] = []
        self.num_attempts = num_wanted

    @property
    def complete(self) -> bool:
        """Whether all wanted demonstrations are there."""
        return len(self.successes) == self.num_wanted

    def recall(self, reports: Sequence[EpisodeReport]) -> None:
        """Book all attempts of an earlier run: they are not made again."""
        self.num_attempts = self.num_wanted + sum(not report.success for report in reports)
        made = {report.attempt for report in reports}
        self.pending = [attempt for attempt in range(self.num_attempts) if attempt not in made][::-1]
        self.successes = [report.attempt for report in reports if report.success]
        self.lengths = [report.num_steps for report in reports if report.success]

    def next_attempt(self) -> int:
        self.num_running += 1
        return self.pending.pop()

    def finish(self, report: EpisodeReport) -> None:
        """Book a result; a failure is replaced by one more attempt."""
        self.num_running -= 1
        if report.success:
            self.successes.append(report.attempt)
            self.lengths.append(report.num_steps)
            return
        if self.num_attempts >= ATTEMPTS_PER_EPISODE * self.num_wanted:
            raise DemonstrationError(
                f"task {self.task_id}: only {len(self.successes)} of {self.num_wanted} demonstrations after "
                f"{self.num_attempts} attempts; lower --noise or --init-jitter, or raise --max-steps"
            )
        self.pending.insert(0, self.num_attempts)
        self.num_attempts += 1
