"""One rank of a sharded training run with replay; started by ``test_replay_two_ranks.py``."""

import sys
from pathlib import Path

import numpy as np
import torch

from rlinf.config.schema import AlgorithmConfig, MethodConfig, OptimConfig, ReplayConfig
from rlinf.custom.methods import TaskContext, make_method
from rlinf.engines.distributed import join_group
from rlinf.engines.fsdp import gather_trainable, shard
from rlinf.engines.learner import PolicyLearner
from tests.distributed.ranks import finish_rank
from tests.small_policy import make_rollouts, read_policy


def main(rank: int, world_size: int, port: int, checkpoint: Path, output: Path, name: str) -> None:
    """Train two epochs; write weights and the replay loss."""
    torch.set_num_threads(1)
    mesh = join_group(rank=rank, world_size=world_size, init_method=f"tcp://127.0.0.1:{port}", own_address="127.0.0.1")
    policy = read_policy(checkpoint)
    shard(policy.module, policy.units(), mesh, param_dtype="fp32", reshard_after_forward=True)
    micro_batch = 6 // world_size  # as many micro-batches, and so as many draws, on any number of ranks
    method = make_method(MethodConfig(name, replay=ReplayConfig(demonstrations=str(output), coeff=1.0)))
    learner = PolicyLearner(
        policy,
        method,
        algorithm=AlgorithmConfig(),
        optim=OptimConfig(lr=5e-3),
        global_batch=12,
        micro_batch=micro_batch,
        device=torch.device("cpu"),
    )
    method.on_task_start(TaskContext((0,), output, micro_batch=micro_batch), policy)
    for epoch in range(2):
        metrics = learner.update(make_rollouts(num_actions=policy.chunk_shape[0]), seed=epoch)
    weights = gather_trainable(policy.module)
    np.savez(output / f"rank_{rank}_of_{world_size}.npz", **weights, loss=metrics["train/loss/replay"])
    finish_rank()


if __name__ == "__main__":
    rank, world_size, port = map(int, sys.argv[1:4])
    main(rank, world_size, port, Path(sys.argv[4]), Path(sys.argv[5]), sys.argv[6])
