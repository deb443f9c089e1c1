"""Replay over two sharded gloo processes equals one process, the base model's logits computed on the fly included."""

from pathlib import Path

import numpy as np
import pytest

from tests.distributed.ranks import run_ranks
from tests.small_policy import write_autoregressive_policy, write_policy
from tests.unit.replay_demos import write_hdf5


def _train(world_size: int, checkpoint: Path, output: Path, name: str) -> list[dict[str, np.ndarray]]:
    run_ranks("replay_ranks", world_size, [checkpoint, output, name])
    return [dict(np.load(output / f"rank_{rank}_of_{world_size}.npz")) for rank in range(world_size)]


@pytest.mark.parametrize(
    ("name", "write"), [("er", write_policy), ("der", write_policy), ("der", write_autoregressive_policy)]
)
def test_two_ranks_give_the_weights_of_one(tmp_path, name, write):
    checkpoint = write(tmp_path / "small")
    write_hdf5(tmp_path, task_ids=range(10), num_demos=1, num_steps=4)
    (one,), two = _train(1, checkpoint, tmp_path, name), _train(2, checkpoint, tmp_path, name)
    assert one.pop("loss") > 0
    for name, value in one.items():
        np.testing.assert_allclose(two[0][name], value, atol=5e-5, err_msg=name)
        np.testing.assert_array_equal(two[0][name], two[1][name], err_msg=name)
