"""Progress of a long call, asked for while it runs."""

from collections.abc import Callable, Sequence
from typing import Any

import ray

from rlinf.reporting.progress import Progress
from rlinf.scheduler.worker_group import WorkerGroup


class Watch:
    """Gives what the workers of a group report to ``show``; never waits for them."""

    def __init__(self, group: WorkerGroup, show: Callable[[Sequence[Any]], None]) -> None:
        self._group, self._show = group, show
        self._refs: list[ray.ObjectRef[Any]] = []

    def tick(self) -> None:
        """Show what has been answered, and ask again."""
        if self._refs:
            answered, _ = ray.wait(self._refs, num_returns=len(self._refs), timeout=0)
            if len(answered) < len(self._refs):
                return
            self._show(ray.get(self._refs))
        self._refs = self._group.watch("progress")


def reach(bar: Progress, done: int, *, note: str = "") -> None:
    """Move a bar to ``done``; it never goes back."""
    if done > bar.done:
        bar.advance(done - bar.done, note=note)
