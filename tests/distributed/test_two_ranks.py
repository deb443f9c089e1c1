"""Sharded training over two gloo processes equals one process."""

from pathlib import Path

import numpy as np
import pytest

from tests.distributed.ranks import run_ranks
from tests.simple_cnn import write_cnn
from tests.small_policy import write_autoregressive_policy, write_policy

RUNS = [  # what two ranks shard; one rank always keeps frozen weights whole
    ("grpo", write_policy, "trained"),
    ("grpo", write_policy, "all"),
    ("ppo", write_policy, "all"),
    ("ppo", write_autoregressive_policy, "trained"),
    ("ppo", write_cnn, "all"),
]


def _train(
    world_size: int,
    checkpoint: Path,
    output: Path,
    *,
    param_dtype: str = "fp32",
    algorithm: str = "grpo",
    sharded: str = "trained",
    resume: Path | None = None,
) -> list[dict[str, np.ndarray]]:
    output.mkdir()
    resumed = [resume] if resume else []
    run_ranks("two_ranks", world_size, [checkpoint, output, param_dtype, algorithm, sharded, *resumed])
    return [dict(np.load(output / f"rank_{rank}.npz")) for rank in range(world_size)]


@pytest.fixture(scope="module", params=RUNS)
def runs(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    algorithm, write, sharded = request.param
    checkpoint = write(folder / "small")

    def train(world_size, name, **options):
        parts = sharded if world_size > 1 else "trained"
        return _train(world_size, checkpoint, folder / name, algorithm=algorithm, sharded=parts, **options)

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
