"""A gradient that is not finite on one of two ranks."""

import numpy as np
import pytest
import torch
import torch.distributed as dist

from openvla_oft.torch_utils.tensors import local
from rlinf.config.errors import DivergedError
from rlinf.custom.methods import ContinualMethod
from rlinf.engines.fsdp import shard
from rlinf.models.lora import trainable_parameters
from tests.distributed.ranks import run_ranks
from tests.small_policy import make_learner, make_rollouts, read_policy


class SpoiltShard(ContinualMethod):
    """Gradients of the last rank's shards become NaN; all losses, and the shards of other ranks, are fine."""

    def on_backward(self, policy):
        for parameter in trainable_parameters(policy.module).values():
            if dist.get_rank() == dist.get_world_size() - 1 and parameter.grad is not None:
                local(parameter.grad).fill_(torch.nan)


def update(mesh, *, checkpoint, output):
    policy = read_policy(checkpoint)
    shard(policy.module, policy.units(), mesh, param_dtype="fp32", reshard_after_forward=True)
    learner = make_learner(policy, SpoiltShard())
    learner.folder = output
    with pytest.raises(DivergedError) as caught:
        learner.update(make_rollouts(), seed=0)
    return str(caught.value)


def test_both_ranks_stop_and_the_minibatch_is_saved_once(small_policy, tmp_path):
    first, second = run_ranks(update, 2, checkpoint=small_policy, output=tmp_path)
    assert first.startswith("policy gradient norm is nan for samples")
    assert second.startswith("policy gradient norm is nan for samples")
    assert f"; the minibatch is in {tmp_path / 'bad_batch.npz'} (numpy.load)" in first
    with np.load(tmp_path / "bad_batch.npz") as saved:
        assert str(saved["position_S"][:8].tolist()) in first
        assert len(saved["position_S"]) > 3, "more than a micro-batch"
