"""Sharded training over two gloo processes equals one process. With compiled blocks: test_sft_two_ranks.py."""

from functools import partial

import numpy as np
import pytest
import torch.distributed as dist

from rlinf.config.schema import AlgorithmConfig
from rlinf.data import Observation
from rlinf.engines.checkpoint import load_training_state, save_actor
from rlinf.engines.fsdp import gather_trainable, shard
from tests.distributed.ranks import run_ranks
from tests.simple_cnn import read_cnn, write_cnn
from tests.small_policy import (
    LANGUAGE,
    PPO,
    make_learner,
    make_rollouts,
    read_policy,
    write_autoregressive_policy,
    write_policy,
)

GRPO = AlgorithmConfig()
IMITATION = AlgorithmConfig(adv_type="success", loss_type="sft", filter_rewards=False)
LAGGING = AlgorithmConfig(max_policy_lag=1, update_epoch=2)
RUNS = [  # whether two ranks shard what is frozen, or all by blocks; one rank never does. False: without an adapter
    (GRPO, write_policy, False),
    (PPO, write_policy, True),
    (IMITATION, write_policy, False),
    (PPO, write_autoregressive_policy, False),
    (PPO, write_cnn, True),
    (GRPO, write_policy, True, False),
    (LAGGING, write_policy, True),
]


def train(
    mesh,
    *,
    checkpoint,
    output,
    algorithm=GRPO,
    param_dtype="fp32",
    shard_frozen=False,
    is_lora=True,
    resume=None,
):
    """Two epochs (one when resuming, from the checkpoint of the first); returns weights, metrics and what it does."""
    critic = algorithm.adv_type == "gae"
    if (checkpoint / "model.pt").is_file():
        policy = read_cnn(checkpoint, weights=resume, critic=critic)
    else:
        policy = read_policy(checkpoint, lora_path=resume, critic=critic, is_lora=is_lora)
    shard(
        policy.module,
        policy.units(),
        mesh,
        param_dtype=param_dtype,
        reshard_after_forward=True,
        shard_frozen=shard_frozen and dist.get_world_size() > 1,
        value_head=policy.value_head,
    )
    learner = make_learner(policy, algorithm=algorithm)
    for epoch in range(load_training_state(learner, resume) if resume else 0, 2):
        rollouts = make_rollouts(num_actions=policy.chunk_shape[0], critic=critic)
        metrics = learner.update(rollouts, seed=epoch, version=algorithm.max_policy_lag)
        if epoch == 0:
            output.mkdir(parents=True, exist_ok=True)
            dist.barrier()
            save_actor(learner, output, epoch=1)
    assert gather_trainable(policy.module, keep=False) == {}
    return gather_trainable(policy.module), metrics, act(policy)


def act(policy):
    """What the sharded policy does in three situations."""
    images = np.random.default_rng(0).integers(0, 256, (3, 1, 32, 32, 3), dtype=np.uint8)
    inputs = policy.prepare(Observation(images, np.zeros((3, 8), np.float32), (LANGUAGE, "open the drawer", LANGUAGE)))
    uniforms = np.random.default_rng(1).random((3, *policy.chunk_shape))
    output = policy.act(inputs, temperature=1.0, uniforms_BCA=uniforms)
    return output.bins_BCA.numpy(), output.logprobs_BCA.numpy()


@pytest.fixture(scope="module", params=RUNS)
def runs(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    algorithm, write, shard_frozen, *rest = request.param
    options = {"algorithm": algorithm, "shard_frozen": shard_frozen, "is_lora": rest != [False]}
    again = partial(run_ranks, train, checkpoint=write(folder / "small"), **options)
    return folder, again, again(1, output=folder / "one")[0], again(2, output=folder / "two")


def assert_same_weights(expected, *ranks):
    for name, value in expected.items():
        np.testing.assert_allclose(ranks[0][name], value, atol=2e-5, err_msg=name)
        for other in ranks[1:]:
            np.testing.assert_array_equal(ranks[0][name], other[name], err_msg=name)


def test_two_ranks_learn_report_and_act_as_one(runs):
    _, _, (weights, metrics, (bins, logprobs)), (first, second) = runs
    assert_same_weights(weights, first[0], second[0])
    for name, value in metrics.items():
        np.testing.assert_allclose(first[1][name], value, rtol=1e-3, atol=1e-6, err_msg=name)
    np.testing.assert_array_equal(second[2][0], bins)
    np.testing.assert_allclose(second[2][1], logprobs, atol=1e-4)


def test_a_checkpoint_of_two_ranks_resumes_on_one(runs):
    folder, again, (weights, _, _), _ = runs
    ((resumed, _, _),) = again(1, output=folder / "resumed", resume=folder / "two")
    assert_same_weights(weights, resumed)


def test_mixed_precision_follows_full_precision(runs):
    folder, again, (_, metrics, _), _ = runs
    (first, mixed, _), (second, _, _) = again(2, output=folder / "mixed", param_dtype="bf16")
    for name in ("train/loss/policy", "train/entropy", "train/grad_norm"):
        np.testing.assert_allclose(mixed[name], metrics[name], rtol=0.1, atol=1e-3, err_msg=name)
    assert_same_weights(first, first, second)
