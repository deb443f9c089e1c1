"""Samples of a collection are in memory once, however many ranks learn from them; measured by the benchmark."""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import ray
from ray._private.internal_api import memory_summary

from rlinf.scheduler.cluster import Cluster
from rlinf.workers.object_store import FILLED

BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks" / "update_memory.py"
IMAGES_MB = 1312 * 224 * 224 * 3 / 1e6


@pytest.fixture(scope="module")
def rows():
    done = subprocess.run(
        [sys.executable, str(BENCHMARK), "--ranks", "2", "--samples", "1312"],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "weights after the update: the same" in done.stdout
    table = [line.strip("| ").split(" | ") for line in done.stdout.splitlines() if line.startswith("|")]
    return {row[0]: dict(zip(table[0], row, strict=True)) for row in table[2:]}


def test_a_rank_holds_less_than_its_share_of_the_samples(rows):
    assert float(rows["shared"]["of its share"]) <= 1.3
    assert float(rows["copies"]["of its share"]) >= 2, "two ranks that copy everything: what is measured is there"


def test_a_rollout_worker_holds_running_episodes_only(rows):
    """Eight of the 21, and one more while it is stored."""
    assert float(rows["shared"]["collector (MB)"]) < 0.6 * IMAGES_MB
    assert float(rows["copies"]["collector (MB)"]) > 1.9 * IMAGES_MB


def test_nobody_keeps_a_collection_that_was_learnt_from(rows):
    assert rows["shared"]["left in store (MB)"] == "0"
    assert rows["shared"]["spilled"] == "no"


def test_a_store_filled_as_planned_is_not_written_to_disk():
    size = 2**28
    with Cluster(object_store_gb=size / 2**30):
        part = int(FILLED * size / 8)
        stored = [ray.put(np.zeros(part - 2**16, np.uint8)) for _ in range(8)]
        time.sleep(2)  # Ray looks every now and then
        summary = memory_summary(ray.get_runtime_context().gcs_address, stats_only=True)
        assert f"{len(stored)} objects" in summary
        assert "Spilled" not in summary
