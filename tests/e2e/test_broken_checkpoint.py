"""What a worker's constructor refuses reaches the user as one message with exit code 2, not as Ray's account of it."""

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from rlinf.cli.console import user_message
from rlinf.scheduler.cluster import Cluster
from rlinf.scheduler.worker_group import Placement, WorkerGroup
from tests.launchers import REPOSITORY, TINY, command, run
from transformers_openvla_oft import CheckpointError


class Worker:
    """Refuses an odd argument."""

    def __init__(self, index: int, error: Callable[[str], Exception]) -> None:
        self.index = index
        if index % 2:
            raise error(f"worker {index} is odd")

    def ask(self) -> int:
        return self.index


def test_a_constructors_refusal_comes_as_it_was_raised():
    with Cluster(object_store_gb=0.1):
        placement = Placement()
        good = WorkerGroup("good", Worker, 2, lambda index: (2 * index, ValueError), placement=placement, timeout_s=60)
        good.ready()
        assert good.call("ask") == good.call("ask") == [0, 2]
        good.stop()
        bad = WorkerGroup("bad", Worker, 2, lambda index: (index, CheckpointError), placement=placement, timeout_s=60)
        with pytest.raises(CheckpointError, match="worker 1 is odd"):
            bad.call("ask")
        bad.stop()
        full = WorkerGroup("full", Worker, 1, lambda _: (1, full_disk), placement=placement, timeout_s=60)
        with pytest.raises(OSError) as caught:
            full.call("ask")
        message = "/data/worker 1 is odd: No space left on device; free some space"
        assert str(user_message(caught.value)).startswith(message)
        full.stop()


def full_disk(where: str) -> OSError:
    """What a system says that cannot write."""
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), f"/data/{where}")


def test_a_broken_tokenizer_ends_an_evaluation_with_one_message(tmp_path):
    broken = Path(shutil.copytree(REPOSITORY / "model" / "tiny-openvla-oft-libero-spatial", tmp_path / "policy"))
    (broken / "tokenizer.json").write_text("{}")
    own = (f"actor.checkpoint_load_path={broken}", f"runner.logger.log_root={tmp_path / 'logs'}")
    text = run(command("eval_embodiment.sh", "base", "", TINY, *own), code=2)
    assert f"error: the checkpoint {broken} is incomplete or corrupt: tokenizer.json: Model missing" in text
