"""One rank that learns two tasks with each method; started by ``test_methods_sharded.py``."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from rlinf.config.schema import AGEMConfig, AlgorithmConfig, EWCConfig, LwFConfig, MethodConfig, OptimConfig, SLCAConfig
from rlinf.custom.methods import TaskContext, make_method
from rlinf.data import RolloutBatch
from rlinf.engines.checkpoint import save_actor
from rlinf.engines.distributed import join_group
from rlinf.engines.fsdp import gather_trainable, shard
from rlinf.engines.learner import PolicyLearner
from tests.distributed.ranks import finish_rank
from tests.small_policy import make_rollouts, read_policy

CONFIGS = {
    name: MethodConfig(
        name=name.split("-")[0],
        ewc=EWCConfig(coeff=1e6, num_samples=5, fisher=name.split("-")[1] if "-" in name else "per_sample"),
        slca=SLCAConfig(vision=1e-4, llm=3e-4, head=1e-3),
        agem=AGEMConfig(memory_per_task=7, batch_size=5),
        lwf=LwFConfig(coeff=10.0),
    )
    for name in ("sequential", "ewc", "ewc-published", "slca", "agem", "lwf")
}


def flipped(rollouts: RolloutBatch) -> RolloutBatch:
    """The second task: what failed now succeeds, so its gradient opposes the first one's."""
    episodes = tuple(
        replace(e, success_once=not e.success_once, total_reward=5.0 - e.total_reward) for e in rollouts.episodes
    )
    return replace(rollouts, episodes=episodes)


def learn(name: str, checkpoint: Path, output: Path, mesh: object) -> dict[str, np.ndarray]:
    """Two tasks, each by a learner of its own as in two runs; ``mesh`` None: not sharded. Returns what is left."""
    previous: Path | None = None
    for task_id, rollouts in enumerate((make_rollouts(), flipped(make_rollouts()))):
        policy = read_policy(checkpoint, lora_path=previous)
        if mesh is not None:
            shard(policy.module, policy.units(), mesh, param_dtype="fp32", reshard_after_forward=True)
        learner = PolicyLearner(
            policy,
            make_method(CONFIGS[name]),
            algorithm=AlgorithmConfig(),
            optim=OptimConfig(lr=1e-3),
            global_batch=12,
            micro_batch=3,
            device=torch.device("cpu"),
        )
        task = TaskContext((task_id,), output, tuple(range(task_id)), previous=previous, micro_batch=3)
        learner.method.on_task_start(task, policy)
        metrics = learner.update(rollouts, seed=task_id)
        learner.method.on_task_end(task, policy, rollouts)
        previous = output / name / str(task_id)
        previous.mkdir(parents=True, exist_ok=True)
        dist.barrier()
        save_actor(learner, previous, epoch=1)
        dist.barrier()
    results = {f"{name}:weight:{key}": value for key, value in gather_trainable(policy.module).items()}
    return results | {f"{name}:metric:{key}": np.array(value) for key, value in metrics.items()}


def main(rank: int, world_size: int, port: int, checkpoint: Path, output: Path) -> None:
    """World size 1 is not sharded at all."""
    torch.set_num_threads(1)
    mesh = join_group(rank=rank, world_size=world_size, init_method=f"tcp://127.0.0.1:{port}", own_address="127.0.0.1")
    results: dict[str, np.ndarray] = {}
    for name in CONFIGS:
        results |= learn(name, checkpoint, output, mesh if world_size > 1 else None)
    np.savez(output / f"rank_{rank}.npz", **results)
    finish_rank()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:4]), *map(Path, sys.argv[4:6]))
