"""Continual-learning methods that see gradients, weights or samples: over two gloo ranks they equal one process."""

from dataclasses import replace

import numpy as np
import pytest
import torch.distributed as dist
from safetensors.numpy import load_file

from rlinf.config.schema import (
    AGEMConfig,
    EMAConfig,
    EWCConfig,
    KLConfig,
    L2Config,
    LwFConfig,
    MethodConfig,
    OLoRAConfig,
    SIConfig,
)
from rlinf.custom.methods import TaskContext, make_method
from rlinf.engines.checkpoint import save_actor
from rlinf.engines.fsdp import gather_trainable, shard
from rlinf.run_layout import METHOD_STATE
from tests.distributed.ranks import run_ranks
from tests.small_policy import make_learner, make_rollouts, read_policy

CONFIGS = {
    name: MethodConfig(
        name=name.split("-")[0],
        ewc=EWCConfig(coeff=1e6, num_samples=5, fisher=name.split("-")[1] if "-" in name else "per_sample"),
        si=SIConfig(coeff=100.0),
        agem=AGEMConfig(memory_per_task=7, batch_size=5),
        lwf=LwFConfig(coeff=10.0),
        kl=KLConfig(coeff=10.0),
        l2=L2Config(coeff=100.0),
        ema=EMAConfig(decay=0.5),
        olora=OLoRAConfig(coeff=100.0),
    )
    for name in ("sequential", "ewc", "ewc-published", "si", "agem", "lwf", "kl", "l2", "ema", "olora")
}


def flipped(rollouts):
    """The second task: what failed now succeeds, so its gradient opposes the first one's."""
    episodes = tuple(
        replace(e, success_once=not e.success_once, total_reward=5.0 - e.total_reward) for e in rollouts.episodes
    )
    return replace(rollouts, episodes=episodes)


def learn(mesh, name, checkpoint, output):
    """Two tasks, each by a learner of its own as in two runs; one rank does not shard. Returns weights and metrics."""
    previous = None
    for task_id, rollouts in enumerate((make_rollouts(), flipped(make_rollouts()))):
        policy = read_policy(checkpoint, lora_path=previous)
        if dist.get_world_size() > 1:
            shard(policy.module, policy.units(), mesh, param_dtype="fp32", reshard_after_forward=True)
        learner = make_learner(policy, make_method(CONFIGS[name]), micro_batch=6)
        merged = (previous,) if name == "olora" and previous else ()  # not the sum that counts here, but the rows
        before = tuple(range(task_id))
        task = TaskContext((task_id,), output, before, previous=previous, merged=merged, micro_batch=6)
        learner.method.on_task_start(task, policy)
        metrics = learner.update(rollouts, seed=task_id)
        learner.method.on_task_end(task, policy, rollouts)
        previous = output / name / str(task_id)
        previous.mkdir(parents=True, exist_ok=True)
        dist.barrier()
        save_actor(learner, previous, epoch=1)
        dist.barrier()
    return gather_trainable(policy.module), metrics


def learn_all(mesh, *, checkpoint, output):
    return {name: learn(mesh, name, checkpoint, output) for name in CONFIGS}


@pytest.fixture(scope="module")
def runs(small_policy, tmp_path_factory):
    folder = tmp_path_factory.mktemp("methods")
    (one,) = run_ranks(learn_all, 1, checkpoint=small_policy, output=folder / "one")
    return folder, one, run_ranks(learn_all, 2, checkpoint=small_policy, output=folder / "two")


@pytest.mark.parametrize("method", CONFIGS)
def test_two_shards_learn_what_one_process_learns(runs, method):
    _, one, (first, second) = runs
    weights, metrics = one[method]
    for name, value in weights.items():
        np.testing.assert_allclose(first[method][0][name], value, atol=2e-5, err_msg=name)
        np.testing.assert_array_equal(first[method][0][name], second[method][0][name])
    for name, value in metrics.items():
        np.testing.assert_allclose(first[method][1][name], value, rtol=1e-3, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("method", [name for name in CONFIGS if name != "sequential"])
def test_every_method_does_something(runs, method):
    _, one, _ = runs
    plain, weights = one["sequential"][0], one[method][0]
    gap = max(float(np.abs(value - plain[name]).max()) for name, value in weights.items())
    assert gap > 2e-4, "more than the tolerance of the comparison of shards"


@pytest.mark.parametrize("method", ["ewc", "ewc-published", "si", "agem", "lwf", "kl", "l2", "ema"])
def test_two_shards_store_what_one_process_stores(runs, method):
    folder, _, _ = runs
    for task in ("0", "1"):
        one, two = (load_file(folder / run / method / task / METHOD_STATE) for run in ("one", "two"))
        assert one.keys() == two.keys()
        for name, value in one.items():
            atol = 2e-5 if name.startswith(("anchor.", "previous.", "start.", "average.")) else 0
            scale = float(np.abs(value).max()) * 1e-3 if name.startswith(("fisher.", "importance.", "gain.")) else 0
            np.testing.assert_allclose(two[name], value, rtol=1e-3, atol=atol + scale, err_msg=name)
