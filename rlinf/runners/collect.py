"""Playing episodes on all inference workers, with a progress bar."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray

from rlinf.config.schema import EnvSplitConfig
from rlinf.data import EpisodePlan, EpisodeResult
from rlinf.reporting.progress import Progress
from rlinf.runners.watch import Watch, reach
from rlinf.workers.collection import Collected, CollectRequest
from rlinf.workers.launch import Workers


@dataclass(frozen=True)
class Collection:
    """Results of all episodes in order, references to the experience of each, and videos."""

    results: tuple[EpisodeResult, ...]
    batches: "tuple[ray.ObjectRef[Any], ...]"
    videos: tuple[tuple[EpisodeResult, tuple[NDArray[np.uint8], ...]], ...]
    metrics: dict[str, float]


def divide_plans(plans: Sequence[EpisodePlan], num_workers: int) -> list[tuple[EpisodePlan, ...]]:
    """Share episodes out evenly, groups unbroken; evaluation keeps the episodes of a task together."""
    order = sorted(plans, key=lambda plan: (plan.task_id, plan.episode))
    keys = list(dict.fromkeys((plan.group, plan.episode if plan.group < 0 else 0) for plan in order))
    owner = {key: position * num_workers // len(keys) for position, key in enumerate(keys)}
    shares: list[list[EpisodePlan]] = [[] for _ in range(num_workers)]
    for plan in order:
        shares[owner[plan.group, plan.episode if plan.group < 0 else 0]].append(plan)
    return [tuple(share) for share in shares]


def collect(
    workers: Workers,
    plans: Sequence[EpisodePlan],
    *,
    split: EnvSplitConfig,
    temperature: float,
    stream: tuple[int, ...],
    keep_samples: bool,
    film: frozenset[int] = frozenset(),
    lora_scale: float = 1.0,
    label: str,
) -> Collection:
    """Play ``plans``; see ``CollectRequest`` for the arguments."""
    request = CollectRequest((), split, temperature, stream, keep_samples, film, lora_scale)
    shares = divide_plans(plans, len(workers.rollout))
    requests = [(replace(request, plans=share),) for share in shares]
    with Progress(label, total=len(plans), unit="episodes") as bar:

        def show(tallies: Sequence[tuple[int, int]]) -> None:
            done, good = map(sum, zip(*tallies, strict=True))
            reach(bar, done, note=f"{good / max(done, 1):.0%} succeed")

        refs = workers.rollout.submit_each("collect", requests)
        parts: list[Collected] = workers.rollout.wait(refs, tick=Watch(workers.rollout, show).tick)
        results = tuple(result for part in parts for result in part.results)
        show([(len(results), sum(result.success_once for result in results))])
    return Collection(
        results=results,
        batches=tuple(batch for part in parts for batch in part.batches),
        videos=tuple(video for part in parts for video in part.videos),
        metrics={
            "time/inference": max(part.inference_s for part in parts),
            "time/waiting_for_simulator": max(part.waiting_s for part in parts),
            "rollout/num_steps": float(sum(result.num_steps for result in results)),
            "rollout/num_chunks": float(sum(part.num_chunks for part in parts)),
        },
    )
