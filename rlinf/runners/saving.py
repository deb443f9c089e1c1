"""Checkpoints, written by the learners while the next epoch is played."""

from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ray

from rlinf.custom.sequence.lineage import Lineage
from rlinf.run_layout import prune, publish, start_writing
from rlinf.scheduler.worker_group import WorkerGroup


class CheckpointWriter:
    """Writes the checkpoints of a run, one at a time, each under a temporary name until it is complete."""

    def __init__(self, actor: WorkerGroup, folder: Path, lineage: Lineage, *, keep: int | None) -> None:
        """folder: the run's; lineage: noted with each; keep: how many of the newest stay, None: all."""
        self._actor, self._folder, self._lineage, self._keep = actor, folder, lineage, keep
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._written: Future[None] | None = None

    def begin(self, epoch: int) -> None:
        """Have the learners write what they are after ``epoch`` epochs; what they are asked for next waits for it."""
        self.finish()
        writing = start_writing(self._folder, epoch)
        refs = self._actor.submit("save", writing / "actor", epoch)
        self._written = self._thread.submit(self._complete, refs, writing, epoch)

    def finish(self) -> None:
        """Wait until the checkpoint that was begun has its name; raises what went wrong."""
        written, self._written = self._written, None
        if written is not None:
            written.result()

    def close(self) -> None:
        """Finish, for good."""
        self.finish()
        self._thread.shutdown()

    def _complete(self, refs: "list[ray.ObjectRef[Any]]", writing: Path, epoch: int) -> None:
        self._actor.wait(refs)
        self._lineage.save(writing / "actor")
        publish(self._folder, epoch)
        if self._keep:
            prune(self._folder, self._keep)
