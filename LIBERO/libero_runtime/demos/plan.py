"""What a recording run consists of: its options, its attempts, and which of them come next."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count, islice
from typing import Annotated

import numpy as np

from libero_runtime.demos.episodes import MAX_STEPS, EpisodeOptions, EpisodePlan
from libero_runtime.demos.hdf5 import COMPRESSIONS
from libero_runtime.options import Option

ATTEMPTS_PER_EPISODE = 4  # give a task up when this many attempts per wanted episode did not suffice


class DemonstrationError(ValueError):
    """Options that do not fit, or a run that cannot produce what was asked for."""


@dataclass(frozen=True)
class RunOptions:
    """Everything that decides what is recorded."""

    suite: Annotated[str, Option(f"task suite: {', '.join(MAX_STEPS)}")] = "libero_spatial"
    tasks: Annotated[tuple[int, ...], Option("task numbers, such as 0-9 or 0,3,5 (default: 0-9)")] = tuple(range(10))
    episodes_per_task: Annotated[int, Option("demonstrations to keep of each task", alias="episodes", least=1)] = 50
    seed: Annotated[int, Option("of noise, jitter and the poses of fixtures", least=0)] = 0
    init_indices: Annotated[
        tuple[int, ...], Option("initial states to start from (default: 0-49)", name="init-range")
    ] = tuple(range(50))
    cameras: Annotated[tuple[str, ...], Option("names, separated by commas (default: agentview)")] = ("agentview",)
    image_size: Annotated[int, Option("pixels (LIBERO's own files have 128)", least=1)] = 256
    compression: Annotated[str, Option("of the images", choices=COMPRESSIONS)] = "lzf"
    episode: EpisodeOptions = field(default_factory=EpisodeOptions)


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

    def __init__(self, task_id: int, num_wanted: int, made: Mapping[int, bool]) -> None:
        """made: whether each attempt of an earlier run succeeded."""
        self.task_id = task_id
        self.num_wanted = num_wanted
        self.made = dict(made)
        self.running: set[int] = set()

    @property
    def wanted(self) -> tuple[int, ...]:
        """The first attempts that have not failed."""
        return tuple(islice((attempt for attempt in count() if self.made.get(attempt, True)), self.num_wanted))

    @property
    def num_kept(self) -> int:
        """How many of the wanted demonstrations are there."""
        return sum(attempt in self.made for attempt in self.wanted)

    @property
    def pending(self) -> list[int]:
        """Attempts that have to be made, whatever comes of those that are running."""
        return [attempt for attempt in self.wanted if attempt not in self.made and attempt not in self.running]

    @property
    def is_complete(self) -> bool:
        """Whether all of them are there."""
        return self.num_kept == self.num_wanted

    def finish(self, attempt: int, *, success: bool) -> None:
        """An attempt was made; one that failed is replaced by one more."""
        self.running.discard(attempt)
        self.made[attempt] = success
        limit = ATTEMPTS_PER_EPISODE * self.num_wanted
        if self.wanted[-1] >= limit:
            num_made = sum(self.made.get(attempt, False) for attempt in range(limit))
            raise DemonstrationError(
                f"task {self.task_id}: only {num_made} of {self.num_wanted} demonstrations after {limit} attempts; "
                "lower --noise or --init-jitter, or raise --max-steps"
            )


def next_attempt(
    options: RunOptions, tasks: Sequence[TaskProgress], scene: int | None, num_scenes: Counter[int]
) -> EpisodePlan | None:
    """Begin an attempt for a worker that has the scene of a task; `num_scenes` workers have that of each.

    It stays with the task whose scene is compiled; else it helps where most waits per worker.
    """
    waiting = {task: len(task.pending) / (1 + num_scenes[task.task_id]) for task in tasks if task.pending}
    if not waiting:
        return None
    chosen = max(waiting, key=lambda task: (task.task_id == scene, waiting[task]))
    attempt = chosen.pending[0]
    chosen.running.add(attempt)
    return plan_attempt(options, chosen.task_id, attempt)
