"""The output layer cut to the action bins gives the whole layer's gradients on a sharded policy too."""

import pytest

from tests.distributed.ranks import run_ranks
from tests.small_policy import write_policy


@pytest.mark.parametrize("param_dtype", ["fp32", "bf16"])
def test_gradients_of_the_cut_output_layer(tmp_path, param_dtype):
    run_ranks("head_ranks", 2, [write_policy(tmp_path / "policy"), param_dtype])
