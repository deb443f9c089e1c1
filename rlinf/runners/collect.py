"""Playing episodes on all inference workers, with a progress bar."""

from collections.abc import Sequence
from dataclasses import replace

from rlinf.data import Collected, CollectRequest, EpisodePlan
from rlinf.reporting.progress import Progress
from rlinf.workers.launch import Workers


def divide_plans(plans: Sequence[EpisodePlan], num_workers: int) -> list[tuple[EpisodePlan, ...]]:
    """Share episodes out evenly, groups unbroken; evaluation keeps the episodes of a task together."""
    order = sorted(plans, key=lambda plan: (plan.task_id, plan.episode))
    keys = list(dict.fromkeys((plan.group, plan.episode if plan.group < 0 else 0) for plan in order))
    owner = {key: position * num_workers // len(keys) for position, key in enumerate(keys)}
    shares: list[list[EpisodePlan]] = [[] for _ in range(num_workers)]
    for plan in order:
        shares[owner[plan.group, plan.episode if plan.group < 0 else 0]].append(plan)
    return [tuple(share) for share in shares]


def collect(workers: Workers, request: CollectRequest, *, label: str) -> Collected:
    """Play the episodes of ``request``; results and experience are in order of the workers' shares."""
    shares = divide_plans(request.plans, len(workers.rollout))
    with Progress(label, total=len(request.plans), unit="episodes") as bar:

        def show(tallies: Sequence[tuple[int, int]]) -> None:
            done, good = map(sum, zip(*tallies, strict=True))
            bar.reach(done, note=f"{good / max(done, 1):.0%} succeed")

        requests = [(replace(request, plans=share),) for share in shares]
        collected = Collected.cat(workers.rollout.call_each("collect", requests, show=show))
        bar.reach(len(collected.results), note=f"{collected.success_rate:.0%} succeed")
    return collected
