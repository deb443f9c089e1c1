"""Groups of workers on one cluster: what a constructor refuses reaches the user, and what is left of an earlier run.

Workers import this module, hence no torch here.
"""

import errno
import os
import signal
import sys
import time
import weakref
from pathlib import Path
from typing import ClassVar

import pytest
import ray

from rlinf.config import ConfigError
from rlinf.run_layout import ADAPTER_FILES, checkpoints
from rlinf.scheduler.cluster import Cluster
from rlinf.scheduler.worker_group import WorkerError, WorkerGroup

FULL = 4  # the epoch whose checkpoint has no room


class RefusedError(ValueError):
    """A package's own kind, as ``CheckpointError`` is."""


class Policy:
    """Refers to itself, as modules with hooks do."""

    def __init__(self) -> None:
        self.hook = self.forward

    def forward(self) -> None: ...


class Worker:
    """Counts the policies of earlier workers that are still there; raises the error that it is given, if any."""

    earlier: ClassVar[list[weakref.ref[Policy]]] = []

    def __init__(self, name: str, error: Exception | None = None) -> None:
        if error is not None:
            raise error
        self.name = name
        self.policies_left = sum(policy() is not None for policy in self.earlier)
        self.policy = Policy()
        self.earlier.append(weakref.ref(self.policy))

    def remember(self) -> None:
        self.memory = "of the run before"

    def state(self) -> tuple[int, str, int, bool]:
        return os.getpid(), self.name, self.policies_left, hasattr(self, "memory")


class Mortal:
    """Works in steps and says how many are done; or dies with last words."""

    def __init__(self) -> None:
        self.done, self.told = 0, "nothing"

    def listen(self, word: str) -> None:
        self.told = word

    @ray.method(concurrency_group="watch")
    def progress(self) -> int:
        return self.done

    def work(self, steps: int, seconds: float) -> int:
        for _ in range(steps):
            time.sleep(seconds)
            self.done += 1
        return self.done

    def fail_once(self, mark: Path | None, number: signal.Signals) -> tuple[int, str]:
        """Send itself a signal unless ``mark`` is there, which it then is; and again, should somebody continue it."""
        if mark is not None and not mark.exists():
            mark.touch()
            while True:
                os.kill(os.getpid(), number)
        return os.getpid(), self.told

    def die(self) -> None:
        sys.stderr.write("out of memory\n")
        sys.stderr.flush()
        os.kill(os.getpid(), signal.SIGKILL)


class Learner:
    """Writes an adapter's files once it is let; or is told that the disk is full."""

    def save(self, folder: Path, epoch: int) -> None:
        if epoch == FULL:
            raise OSError(errno.ENOSPC, "No space left on device", str(folder))
        while not (folder.parents[2] / "go").exists():
            time.sleep(0.01)
        for name in ADAPTER_FILES:
            (folder / name).write_text(str(epoch))


@pytest.fixture(scope="module")
def cluster():
    with Cluster(object_store_gb=0.1) as running:
        yield running


@pytest.fixture(scope="module")
def group(cluster):
    return WorkerGroup("two", Worker, 2, lambda index: (f"first {index}",), timeout_s=300)


def test_a_renewed_worker_keeps_its_process_and_nothing_else(group):
    group.call("remember")
    before = group.call("state")
    assert before == group.call("state")
    assert [(name, memory) for _, name, _, memory in before] == [("first 0", True), ("first 1", True)]
    group.renew(lambda index: (f"second {index}",))
    after = group.call("state")
    assert [one[0] for one in after] == [one[0] for one in before]
    assert [one[1:] for one in after] == [("second 0", 0, False), ("second 1", 0, False)]


@pytest.mark.parametrize("error", [ConfigError("no name"), RefusedError("cut off")], ids=lambda one: type(one).__name__)
def test_a_constructors_refusal_comes_as_it_was_raised(group, error):
    """Of one of two workers, and not as Ray's account of it."""
    group.renew(lambda index: ("third", error if index else None))
    with pytest.raises(type(error), match=str(error)):
        group.call("state")


def test_a_full_disk_is_told_in_words(group):
    from rlinf.cli.console import user_message

    group.renew(lambda index: ("full", OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/data/worker")))
    with pytest.raises(OSError) as caught:
        group.call("state")
    assert str(user_message(caught.value)).startswith("/data/worker: No space left on device; free some space")


def test_a_new_workers_refusal_comes_too(cluster):
    bad = WorkerGroup("bad", Worker, 1, lambda _: ("odd", RefusedError("worker is odd")), timeout_s=300)
    with pytest.raises(RefusedError, match="worker is odd"):
        bad.call("state")
    bad.stop()


def test_a_call_may_take_long_while_it_goes_on(cluster):
    group = WorkerGroup("mortal", Mortal, 1, lambda _: (), timeout_s=300, stall_s=6, watched=True)
    assert group.wait(group.submit("work", 8, 1.0), show=lambda _: None) == [8]
    with pytest.raises(WorkerError, match=r"mortal: 1 of 1 calls made no progress within 6 s .runner.stall_timeout_s"):
        group.wait(group.submit("work", 1, 60), show=lambda _: None)
    group.stop()


def test_a_workers_last_words_are_told(cluster):
    group = WorkerGroup("mortal", Mortal, 1, lambda _: (), timeout_s=300, watched=True)
    with pytest.raises(WorkerError, match=r"mortal: a worker died: (.|\n)*last lines of its log:(.|\n)*out of memory"):
        group.call("die")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=lambda one: one.name)
def test_one_that_dies_or_hangs_is_replaced_told_the_same_and_called_again(cluster, tmp_path, number, caplog):
    limits = {"timeout_s": 6.0, "stall_s": 6.0, "max_replaced": 1}
    group = WorkerGroup("mortal", Mortal, 2, lambda _: (), watched=True, **limits)
    group.tell("listen", "an old word")
    group.tell_each("listen", [("zero",), ("one",)])
    before = group.call("fail_once", None, number)
    after = group.call_each("fail_once", [(None, number), (tmp_path / "mark", number)], show=lambda _: None)
    assert after[0] == before[0], "the other goes on"
    assert after[1][0] != before[1][0]
    assert after[1][1] == "one"
    assert "replaced: mortal 1" in caplog.text
    group.stop()


def test_one_that_dies_between_calls_is_replaced_by_the_next(cluster):
    group = WorkerGroup("mortal", Mortal, 2, lambda _: (), timeout_s=60, watched=True, max_replaced=1)
    pids = [pid for pid, _ in group.call("fail_once", None, signal.SIGKILL)]
    os.kill(pids[0], signal.SIGKILL)
    group.tell("listen", "a word")
    assert [told for _, told in group.call("fail_once", None, signal.SIGKILL)] == ["a word", "a word"]
    group.stop()


def test_those_that_die_again_and_again_end_the_call(cluster):
    group = WorkerGroup("mortal", Mortal, 2, lambda _: (), timeout_s=60, watched=True, max_replaced=2)
    with pytest.raises(WorkerError, match="mortal: a worker died"):
        group.call("die")
    group.stop()


def test_a_checkpoint_has_its_name_once_it_is_complete_and_what_fails_is_raised_later(cluster, tmp_path):
    from rlinf.custom.sequence.lineage import Lineage  # they import torch
    from rlinf.runners.saving import CheckpointWriter

    group = WorkerGroup("learner", Learner, 1, lambda _: (), timeout_s=60)
    lineage = Lineage(method="ewc", suite="libero_spatial", seed=7, learnt_tasks=(2,), stage=(2,), base_model="m")
    writer = CheckpointWriter(group, tmp_path, lineage, keep=2)
    try:
        writer.begin(1)
        assert checkpoints(tmp_path) == [], "the learner still writes, and the caller goes on"
        (tmp_path / "go").touch()
        for epoch in (2, 3, FULL):
            writer.begin(epoch)
        with pytest.raises(OSError, match="No space left"):
            writer.finish()
        assert [one.step for one in checkpoints(tmp_path)] == [2, 3], "the newest two that are complete"
        assert Lineage.load(checkpoints(tmp_path)[-1].actor) == lineage
        writer.finish()
        writer.close()
    finally:
        group.stop()
