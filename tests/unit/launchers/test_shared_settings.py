"""What lets runs of one process share workers, and what torch is like for each of them."""

from dataclasses import replace

import pytest
import torch

from rlinf.config import load_config
from rlinf.custom.sequence.plan import SequenceRequest, plan_sequence
from rlinf.custom.sequence.recipe import Recipe
from rlinf.engines.distributed import set_up_torch
from rlinf.workers.launch import env_settings, shared_settings, torch_environment
from tests.sequences import TINY, at


@pytest.mark.parametrize("method", ["sequential", "weight_merge"])
def test_the_tasks_of_a_sequence_share_workers(tmp_path, method):
    recipe = Recipe(load_config(TINY, [f"method={method}"]), TINY)
    request = SequenceRequest(stages=((0,), (1,), (2, 3)), seed=7)
    configs = [step.config for step in plan_sequence(request, recipe, workspace=at(tmp_path), ledger=[])]
    assert [config.env.fixed_task_ids for config in configs] == [[0], [1], [2, 3]]
    assert shared_settings(configs[0]) == shared_settings(configs[1]) == shared_settings(configs[2])


@pytest.mark.parametrize(
    "override", ["env.look=official", "env.num_envs_per_worker=2", "cluster.num_env_workers=1", "env.suite=libero_10"]
)
def test_other_simulators_or_counts_are_other_workers(override):
    assert shared_settings(load_config(TINY, [override])) != shared_settings(load_config(TINY))


def test_a_simulator_is_not_told_the_task_that_its_worker_starts_with():
    config = load_config(TINY, ["env.fixed_task_ids=[3]"])
    assert env_settings(config) == replace(config.env, fixed_task_ids=None)


def test_unseeded_random_numbers_are_those_of_a_new_worker():
    drawn = []
    for _ in range(2):
        set_up_torch(torch.get_num_threads())
        drawn.append(torch.rand(3))
    assert torch.equal(*drawn)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"HOME": "/home/user"}, "/home/user/.cache/continual-vla-rl/torchinductor"),
        ({"HOME": "/home/user", "XDG_CACHE_HOME": "/scratch"}, "/scratch/continual-vla-rl/torchinductor"),
        ({"XDG_CACHE_HOME": "/scratch", "TORCHINDUCTOR_CACHE_DIR": "/mine"}, "/mine"),
    ],
)
def test_compiled_code_is_kept_in_the_users_cache(monkeypatch, variables, expected):
    for name in ("XDG_CACHE_HOME", "TORCHINDUCTOR_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert torch_environment()["TORCHINDUCTOR_CACHE_DIR"] == expected
