"""A gradient that is not finite on one of two ranks."""

from pathlib import Path

import numpy as np

from tests.distributed.ranks import run_ranks
from tests.small_policy import write_policy


def test_both_ranks_stop_and_the_minibatch_is_saved_once(tmp_path: Path) -> None:
    run_ranks("stop_ranks", 2, [write_policy(tmp_path / "small"), tmp_path])
    first, second = ((tmp_path / f"rank_{rank}.txt").read_text() for rank in range(2))
    assert first.startswith("policy gradient norm is nan for samples")
    assert second.startswith("policy gradient norm is nan for samples")
    assert f"; the minibatch is in {tmp_path / 'bad_batch.npz'} (numpy.load)" in first
    with np.load(tmp_path / "bad_batch.npz") as saved:
        assert str(saved["position_S"][:8].tolist()) in first
        assert len(saved["position_S"]) > 3, "more than a micro-batch"
