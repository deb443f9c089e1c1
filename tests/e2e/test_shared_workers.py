"""Runs of one process share a cluster and its workers, and come out as if each had its own."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rlinf.config import load_config
from rlinf.models import PolicySource
from rlinf.run_layout import TRAINING_STATE
from rlinf.workers.session import Session
from tests.launchers import REPOSITORY, SEED, TINY, launch


def test_a_cluster_is_kept_as_long_as_its_workers_fit():
    import ray

    config = load_config(TINY, ["env.fixed_task_ids=[0]"])
    source = PolicySource(REPOSITORY / config.actor.checkpoint_load_path, unnorm_key="libero_spatial", seed=SEED)
    with Session() as session:
        session.resources(config, source)
        first = ray.get_runtime_context().gcs_address
        session.resources(replace(config, env=replace(config.env, fixed_task_ids=[1])), source)
        assert ray.get_runtime_context().gcs_address == first
        session.resources(replace(config, env=replace(config.env, look="official")), source)
        assert ray.get_runtime_context().gcs_address != first
    assert not ray.is_initialized()


def _run(model: Path, logs: Path, tasks: str) -> str:
    own = ("algorithm.entropy_bonus=1.0", "method.ewc.num_samples=2", "env.eval_task_ids=[0,1]")
    return launch("run_embodiment_ewc.sh", tasks, "", "1", TINY, str(SEED), *own, model=model, logs=logs)


def _numbers(record: dict[str, object]) -> dict[str, object]:
    """A line of the ledger without when and where."""
    return {key: value for key, value in record.items() if key not in ("time", "wall_seconds", "config_hash")}


@pytest.mark.slow
def test_tasks_in_one_process_have_the_bits_of_tasks_in_two(small_policy, tmp_path):
    """EWC, which hands on an adapter, an anchor and its importance; entropy gives every weight a gradient."""
    model = small_policy
    together, apart = tmp_path / "together" / "ewc", tmp_path / "apart" / "ewc"
    output = _run(model, together.parent, "0,1")
    assert output.count("local Ray:") == 1, "one cluster serves both"
    for tasks in ("0", "0,1"):
        _run(model, apart.parent, tasks)
    for task in (0, 1):
        actors = [
            folder / f"task_{task}_seed{SEED}" / "checkpoints" / "global_step_1" / "actor"
            for folder in (together, apart)
        ]
        for name in ("adapter_model.safetensors", "method_state.safetensors"):
            one, other = (load_file(actor / name) for actor in actors)
            assert one.keys() == other.keys()
            assert all(torch.equal(one[key], other[key]) for key in one), (task, name)
            assert any(tensor.any() for key, tensor in one.items() if "lora_B" in key), "something was learnt"
        states = [torch.load(actor / TRAINING_STATE, weights_only=True)["optimizer"]["state"] for actor in actors]
        for key, moments in states[0].items():
            assert torch.equal(moments["exp_avg"], states[1][key]["exp_avg"]), (task, key)
    ledgers = [
        [_numbers(json.loads(line)) for line in (folder / "evaluations.jsonl").read_text().splitlines()]
        for folder in (together, apart)
    ]
    assert len(ledgers[0]) == 3
    assert ledgers[0] == ledgers[1]
