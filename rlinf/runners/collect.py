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
from rlinf.workers.launch import Workers
from rlinf.workers.rollout import Collected, CollectRequest


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
        watch = _Watch(workers, bar)
        refs = workers.rollout.submit_each("collect", requests)
        parts: list[Collected] = workers.rollout.wait(refs, tick=watch.tick)
        watch.finish(parts)
    results = tuple(result for part in parts for result in part.results)
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


class _Watch:
    """Moves the bar to what the workers report; never waits for them."""

    def __init__(self, workers: Workers, bar: Progress) -> None:
        self._group, self._bar = workers.rollout, bar
        self._refs: list[ray.ObjectRef[Any]] = []

    def tick(self) -> None:
        if self._refs:
            done, _ = ray.wait(self._refs, num_returns=len(self._refs), timeout=0)
            if len(done) < len(self._refs):
                return
            finished = ray.get(self._refs)
            self._show(sum(count for count, _ in finished), sum(good for _, good in finished))
        self._refs = self._group.watch("progress")

    def finish(self, parts: Sequence[Collected]) -> None:
        results = [result for part in parts for result in part.results]
        self._show(len(results), sum(result.success_once for result in results))

    def _show(self, done: int, good: int) -> None:
        if done > self._bar.done:
            self._bar.advance(done - self._bar.done, note=f"{good / done:.0%} succeed")
