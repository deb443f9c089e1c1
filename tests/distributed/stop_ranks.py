"""One rank of a run whose gradients are spoilt; started by ``test_stop_two_ranks.py``."""

import sys
from pathlib import Path

import torch

from rlinf.config.schema import AlgorithmConfig, OptimConfig
from rlinf.custom.methods import ContinualMethod
from rlinf.engines.distributed import join_group
from rlinf.engines.fsdp import shard
from rlinf.engines.learner import PolicyLearner
from rlinf.models import Policy
from rlinf.models.lora import trainable_parameters
from rlinf.models.shards import local
from tests.distributed.ranks import finish_rank
from tests.small_policy import make_rollouts, read_policy


class SpoiltShard(ContinualMethod):
    """Gradients of one rank's shards become NaN; all losses, and the shards of other ranks, are fine."""

    def __init__(self, is_spoilt: bool) -> None:
        self.is_spoilt = is_spoilt

    def on_backward(self, policy: Policy) -> None:
        for parameter in trainable_parameters(policy.module).values():
            if self.is_spoilt and parameter.grad is not None:
                local(parameter.grad).fill_(torch.nan)


def main(rank: int, world_size: int, port: int, checkpoint: Path, output: Path) -> None:
    """Update once, write the error."""
    torch.set_num_threads(1)
    mesh = join_group(rank=rank, world_size=world_size, init_method=f"tcp://127.0.0.1:{port}", own_address="127.0.0.1")
    policy = read_policy(checkpoint)
    shard(policy.module, policy.units(), mesh, param_dtype="fp32", reshard_after_forward=True)
    learner = PolicyLearner(
        policy,
        SpoiltShard(rank == world_size - 1),
        algorithm=AlgorithmConfig(),
        optim=OptimConfig(lr=1e-3),
        global_batch=12,
        micro_batch=3,
        device=torch.device("cpu"),
    )
    learner.folder = output
    try:
        learner.update(make_rollouts(), seed=0)
    except FloatingPointError as error:
        (output / f"rank_{rank}.txt").write_text(str(error))
    finish_rank()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:4]), *map(Path, sys.argv[4:6]))
