"""Sharded training over two gloo processes equals one process."""

import json
from pathlib import Path
from shutil import which

import numpy as np
import pytest

from tests.distributed.ranks import run_ranks
from tests.simple_cnn import write_cnn
from tests.small_policy import write_autoregressive_policy, write_policy

RUNS = [  # whether two ranks shard what is frozen; one rank never does
    ("grpo", write_policy, False),
    ("grpo", write_policy, True),
    ("ppo", write_policy, True),
    ("ppo", write_autoregressive_policy, False),
    ("ppo", write_cnn, True),
]


def _train(world_size: int, checkpoint: Path, output: Path, **options: object) -> list[dict[str, np.ndarray]]:
    output.mkdir()
    run_ranks("two_ranks", world_size, [checkpoint, output, json.dumps(options, default=str)])
    return [dict(np.load(output / f"rank_{rank}.npz")) for rank in range(world_size)]


@pytest.fixture(scope="module", params=RUNS)
def runs(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    algorithm, write, shard_frozen = request.param
    checkpoint = write(folder / "small")

    def train(world_size, name, **options):
        options |= {"algorithm": algorithm, "shard_frozen": shard_frozen and world_size > 1}
        return _train(world_size, checkpoint, folder / name, **options)

    return folder, train, train(1, "one"), train(2, "two")


def _weights(result):
    return {name: value for name, value in result.items() if ":" not in name}


def test_two_ranks_give_the_weights_of_one(runs):
    _, _, one, two = runs
    for name, value in _weights(one[0]).items():
        np.testing.assert_allclose(two[0][name], value, atol=2e-5, err_msg=name)
        np.testing.assert_array_equal(two[0][name], two[1][name], err_msg=name)


def test_two_ranks_report_the_metrics_of_one(runs):
    _, _, one, two = runs
    for name in (key for key in one[0] if key.startswith("metric:")):
        np.testing.assert_allclose(two[0][name], one[0][name], rtol=1e-3, atol=1e-6, err_msg=name)


def test_two_ranks_act_as_one(runs):
    _, _, one, two = runs
    np.testing.assert_array_equal(two[1]["acted:bins"], one[0]["acted:bins"])
    np.testing.assert_allclose(two[1]["acted:logprobs"], one[0]["acted:logprobs"], atol=1e-4)


def test_a_checkpoint_of_two_ranks_resumes_on_one(runs):
    folder, train, one, _ = runs
    resumed = train(1, "resumed", resume=folder / "two" / "first" / "actor")
    for name, value in _weights(one[0]).items():
        np.testing.assert_allclose(resumed[0][name], value, atol=2e-5, err_msg=name)


def test_mixed_precision_follows_full_precision(runs):
    _, train, one, _ = runs
    mixed = train(2, "mixed", param_dtype="bf16")
    for name in ("metric:train/loss/policy", "metric:train/entropy", "metric:train/grad_norm"):
        np.testing.assert_allclose(mixed[0][name], one[0][name], rtol=0.1, atol=1e-3, err_msg=name)
    np.testing.assert_array_equal(*(_weights(mixed[rank])[min(_weights(mixed[0]))] for rank in (0, 1)))


@pytest.mark.slow
@pytest.mark.skipif(which("g++") is None and which("clang++") is None, reason="needs a C++ compiler")
@pytest.mark.parametrize("shard_frozen", [False, True])
def test_compiled_blocks_of_two_ranks_give_the_weights_of_one(tmp_path, shard_frozen):
    checkpoint = write_policy(tmp_path / "small")
    one = _train(1, checkpoint, tmp_path / "one")[0]
    two = _train(2, checkpoint, tmp_path / "two", compile_blocks=True, shard_frozen=shard_frozen)
    for name, value in _weights(one).items():
        np.testing.assert_allclose(two[0][name], value, atol=2e-5, err_msg=name)
        np.testing.assert_array_equal(two[0][name], two[1][name], err_msg=name)
