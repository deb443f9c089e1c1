"""One rank of a sharded training run; started by ``test_two_ranks.py``."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from rlinf.config.schema import AlgorithmConfig, OptimConfig
from rlinf.custom.methods import ContinualMethod
from rlinf.data import Observation
from rlinf.engines.checkpoint import load_training_state, save_actor
from rlinf.engines.distributed import join_group
from rlinf.engines.fsdp import gather_trainable, shard
from rlinf.engines.learner import PolicyLearner
from rlinf.models import Policy
from tests.distributed.ranks import finish_rank
from tests.simple_cnn import read_cnn
from tests.small_policy import LANGUAGE, make_rollouts, read_policy
from transformers_openvla_oft import compile_blocks

ALGORITHMS = {
    "grpo": AlgorithmConfig(),
    "ppo": AlgorithmConfig(adv_type="gae", loss_type="ppo", filter_rewards=False, loss_aggregation="token"),
}


@dataclass(frozen=True)
class Options:
    """How a rank trains; given as JSON. resume: the checkpoint of a run's first epoch."""

    param_dtype: str = "fp32"
    algorithm: str = "grpo"
    shard_frozen: bool = False
    compile_blocks: bool = False
    resume: str | None = None


def main(rank: int, world_size: int, port: int, checkpoint: Path, output: Path, options: Options) -> None:
    """Train two epochs (one when resuming), write weights, metrics and a checkpoint."""
    torch.set_num_threads(1)
    mesh = join_group(rank=rank, world_size=world_size, init_method=f"tcp://127.0.0.1:{port}", own_address="127.0.0.1")
    critic = options.algorithm == "ppo"
    resume = Path(options.resume) if options.resume else None
    if (checkpoint / "model.pt").is_file():
        policy = read_cnn(checkpoint, weights=resume, critic=critic)
    else:
        policy = read_policy(checkpoint, lora_path=resume, critic=critic)
        if options.compile_blocks:
            compile_blocks(policy.module)
    shard(
        policy.module,
        policy.units(),
        mesh,
        param_dtype=options.param_dtype,
        reshard_after_forward=True,
        shard_frozen=options.shard_frozen,
        value_head=policy.value_head,
    )
    learner = PolicyLearner(
        policy,
        ContinualMethod(),
        algorithm=ALGORITHMS[options.algorithm],
        optim=OptimConfig(lr=1e-3),
        global_batch=12,
        micro_batch=3,
        device=torch.device("cpu"),
    )
    start = load_training_state(learner, resume) if resume else 0
    for epoch in range(start, 2):
        metrics = learner.update(make_rollouts(num_actions=policy.chunk_shape[0], critic=critic), seed=epoch)
        if epoch == 0:
            folder = output / "first" / "actor"
            folder.mkdir(parents=True, exist_ok=True)
            dist.barrier()
            save_actor(learner, folder, epoch=1)
    acted = act(policy)
    weights = gather_trainable(policy.module)
    named = {f"metric:{name}": value for name, value in metrics.items()}
    np.savez(output / f"rank_{rank}.npz", **weights, **named, **{f"acted:{name}": t for name, t in acted.items()})
    finish_rank()


def act(policy: Policy) -> dict[str, np.ndarray]:
    """What the sharded policy does in three situations."""
    images = np.random.default_rng(0).integers(0, 256, (3, 1, 32, 32, 3), dtype=np.uint8)
    inputs = policy.prepare(Observation(images, np.zeros((3, 8), np.float32), (LANGUAGE, "open the drawer", LANGUAGE)))
    uniforms = np.random.default_rng(1).random((3, *policy.chunk_shape))
    output = policy.act(inputs, temperature=1.0, uniforms_BCA=uniforms)
    return {"bins": output.bins_BCA.numpy(), "logprobs": output.logprobs_BCA.numpy()}


if __name__ == "__main__":
    rank, world_size, port = map(int, sys.argv[1:4])
    main(rank, world_size, port, Path(sys.argv[4]), Path(sys.argv[5]), Options(**json.loads(sys.argv[6])))
