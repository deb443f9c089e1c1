"""Replay over two sharded gloo processes equals one process, the base model's logits computed on the fly included."""

import numpy as np
import pytest
import torch.distributed as dist

from rlinf.config.schema import MethodConfig, ReplayConfig
from rlinf.custom.methods import TaskContext, make_method
from rlinf.engines.fsdp import gather_trainable, shard
from tests.distributed.ranks import run_ranks
from tests.small_policy import make_learner, make_rollouts, read_policy, write_autoregressive_policy, write_policy
from tests.unit.methods.replay_demos import write_hdf5


def train(mesh, *, checkpoint, demonstrations, name):
    """Two epochs; returns weights and the replay loss."""
    policy = read_policy(checkpoint)
    shard(policy.module, policy.units(), mesh, param_dtype="fp32", reshard_after_forward=True)
    micro_batch = 6 // dist.get_world_size()  # as many micro-batches, and so as many draws, on any number of ranks
    method = make_method(MethodConfig(name, replay=ReplayConfig(demonstrations=str(demonstrations), coeff=1.0)))
    learner = make_learner(policy, method, lr=5e-3, micro_batch=micro_batch)
    method.on_task_start(TaskContext((0,), demonstrations, micro_batch=micro_batch), policy)
    for epoch in range(2):
        metrics = learner.update(make_rollouts(num_actions=policy.chunk_shape[0]), seed=epoch)
    return gather_trainable(policy.module), metrics["train/loss/replay"]


@pytest.mark.parametrize(("name", "write"), [("er", write_autoregressive_policy), ("der", write_policy)])
def test_two_ranks_give_the_weights_of_one(tmp_path, name, write):
    arguments = {"checkpoint": write(tmp_path / "small"), "demonstrations": tmp_path, "name": name}
    write_hdf5(tmp_path, task_ids=range(10), num_demos=1, num_steps=4)
    ((one, loss),), ((first, _), (second, _)) = (run_ranks(train, size, **arguments) for size in (1, 2))
    assert loss > 0
    for name, value in one.items():
        np.testing.assert_allclose(first[name], value, atol=5e-5, err_msg=name)
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)
