"""Samples of a collection are in memory once, however many ranks learn from them; measured by the benchmark."""

import time
from contextlib import redirect_stdout
from io import StringIO

import numpy as np
import pytest
import ray
from ray._private.internal_api import memory_summary

from benchmarks import update_memory
from rlinf.scheduler.cluster import Cluster
from rlinf.workers.object_store import FILLED

IMAGES_MB = 1312 * 224 * 224 * 3 / 1e6


@pytest.fixture(scope="module")
def row():
    """Of the benchmark. Lower bounds, as of a micro-batch's images, tell that what is measured is there."""
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(StringIO()) as out:
        patch.setattr("sys.argv", ["update_memory", "--ranks", "2", "--samples", "1312", "--ways", "shared"])
        assert update_memory.main() == 0
    names, _, row = [line.strip("| ").split(" | ") for line in out.getvalue().splitlines() if line.startswith("|")]
    return dict(zip(names, row, strict=True))


def test_a_rank_holds_no_more_than_its_share_of_the_samples(row):
    assert 0.04 < float(row["of its share"]) <= 1.3


def test_a_rollout_worker_holds_running_episodes_only(row):
    """Eight of the 21, and one more while it is stored."""
    assert 0.3 * IMAGES_MB < float(row["collector (MB)"]) < 0.6 * IMAGES_MB


def test_nobody_keeps_a_collection_that_was_learnt_from(row):
    assert row["left in store (MB)"] == "0"
    assert row["spilled"] == "no"


def test_a_store_filled_as_planned_is_not_written_to_disk():
    size = 2**28
    with Cluster(object_store_gb=size / 2**30):
        part = int(FILLED * size / 8)
        stored = [ray.put(np.zeros(part - 2**16, np.uint8)) for _ in range(8)]
        time.sleep(2)  # Ray looks every now and then
        summary = memory_summary(ray.get_runtime_context().gcs_address, stats_only=True)
        assert f"{len(stored)} objects" in summary
        assert "Spilled" not in summary
