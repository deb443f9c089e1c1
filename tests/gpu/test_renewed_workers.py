"""Policies of one process, one after the other: each is let go of, and the next one does the same."""

import gc
import weakref
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from rlinf.config import Config
from rlinf.config.schema import ActorConfig, AlgorithmConfig, RolloutConfig
from rlinf.custom.methods import make_method
from rlinf.data import Observation
from rlinf.engines.distributed import free_port, join_group, leave_group, local_device, set_up_torch
from rlinf.engines.fsdp import gather_trainable, shard
from rlinf.engines.learner import PolicyLearner
from rlinf.models import Policy, PolicySource, load_policy
from rlinf.workers.rollout import RolloutWorker
from tests.small_policy import LANGUAGE, make_rollouts, model_config, write_policy

Run = Callable[[Config], tuple[dict[str, np.ndarray], Policy]]
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    checkpoint = write_policy(tmp_path_factory.mktemp("policy") / "small")
    return Config(
        algorithm=AlgorithmConfig(filter_rewards=False),
        actor=ActorConfig(
            checkpoint_load_path=str(checkpoint),
            model=model_config(checkpoint),
            global_batch_size=8,
            micro_batch_size=4,
            num_threads=1,
        ),
        rollout=RolloutConfig(precision="fp32", cuda_graphs=True, num_threads=1),
    )


def source(config: Config) -> PolicySource:
    return PolicySource(Path(config.actor.checkpoint_load_path), unnorm_key="libero_spatial", seed=3)


def learn(config: Config) -> tuple[dict[str, np.ndarray], Policy]:
    """Weights after an update, as an actor worker makes it."""
    mesh = join_group(rank=0, world_size=1, init_method=f"tcp://127.0.0.1:{free_port()}", own_address="127.0.0.1")
    policy = load_policy(config.actor.model, source(config), base_dtype=torch.float32)
    policy.to(local_device())
    shard(policy.module, policy.units(), mesh, param_dtype="fp32", reshard_after_forward=True)
    learner = PolicyLearner(
        policy,
        make_method(config.method),
        algorithm=config.algorithm,
        optim=config.actor.optim,
        global_batch=config.actor.global_batch_size,
        micro_batch=config.actor.micro_batch_size,
        device=local_device(),
    )
    assert learner.update(make_rollouts(), seed=0)["train/num_steps"] > 0
    weights = gather_trainable(policy.module)
    leave_group()
    return weights, policy


def act(config: Config) -> tuple[dict[str, np.ndarray], Policy]:
    """Actions of a rollout worker."""
    policy = RolloutWorker(config, source(config))._policy
    observation = Observation(np.zeros((4, 1, 64, 64, 3), np.uint8), np.zeros((4, 8), np.float32), (LANGUAGE,) * 4)
    uniforms = np.random.default_rng(0).random((4, *policy.chunk_shape))
    output = policy.act(policy.prepare(observation), temperature=1.0, uniforms_BCA=uniforms)
    return {"bins": output.bins_BCA.cpu().numpy()}, policy


@pytest.mark.parametrize("run", [learn, act])
def test_a_policy_is_let_go_of_and_the_next_one_does_the_same(config: Config, run: Run) -> None:
    results = []
    for _ in range(3):
        result, policy = run(config)
        results.append(result)
        module = weakref.ref(policy.module)
        del policy
        gc.collect()
        set_up_torch(1)
        assert module() is None
    for result in results[1:]:
        for name, value in results[0].items():
            np.testing.assert_allclose(result[name], value, rtol=0, atol=1e-4, err_msg=name)
