"""A disk that is full while a run writes: one message, and the same command goes on when there is room."""

from pathlib import Path

import pytest

from rlinf.reporting.jsonlines import read_lines
from tests.launchers import TINY, command, run
from tests.small_policy import write_policy


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux's device of a full disk")
def test_a_run_goes_on_where_a_full_disk_stopped_it(tmp_path):
    logs = tmp_path / "logs"
    words = command(
        "run_embodiment_sequential.sh", "0", "", "1", TINY, "7", "runner.eval_before=false", "runner.eval_after=false",
        model=write_policy(tmp_path / "policy"), logs=logs,
    )  # fmt: skip
    metrics = logs / "sequential" / "task_0_seed7" / "metrics.jsonl"
    metrics.parent.mkdir(parents=True)
    metrics.symlink_to("/dev/full")
    assert f"error: {metrics}: No space left on device; free some space there" in run(words, code=2)
    metrics.unlink()
    run(words)
    assert {entry["step"] for _, entry in read_lines(metrics)} == {1}
    assert (metrics.parent / "checkpoints" / "global_step_1" / "actor" / "adapter_model.safetensors").is_file()
