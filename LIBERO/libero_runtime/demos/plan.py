"""What a recording run consists of: its options, its attempts, and which of them are wanted."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import count, islice
from typing import Annotated

import numpy as np

from libero_runtime.demos.episodes import MAX_STEPS, AttemptPlan, EpisodeOptions
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


def plan_attempt(options: RunOptions, task_id: int, attempt: int) -> AttemptPlan:
    """The attempt-th episode of a task: initial states in turn, seeds from the run's seed."""
    scene_seed, seed = np.random.SeedSequence([options.seed, task_id, attempt]).generate_state(2)
    init_index = options.init_indices[attempt % len(options.init_indices)]
    return AttemptPlan(init_index, scene_seed=int(scene_seed), seed=int(seed))


def wanted_attempts(task_id: int, made: Mapping[int, bool], num_wanted: int) -> tuple[int, ...]:
    """The first attempts of a task that have not failed.

    made: whether each attempt that was made succeeded. So the first successful ones by number are kept, whatever order
    they end in.

    Raises:
        DemonstrationError: so many have failed that there is no hope.
    """
    wanted = tuple(islice((attempt for attempt in count() if made.get(attempt, True)), num_wanted))
    limit = ATTEMPTS_PER_EPISODE * num_wanted
    if wanted[-1] >= limit:
        num_made = sum(made.get(attempt, False) for attempt in range(limit))
        raise DemonstrationError(
            f"task {task_id}: only {num_made} of {num_wanted} demonstrations after {limit} attempts; "
            "lower --noise or --init-jitter, or raise --max-steps"
        )
    return wanted
