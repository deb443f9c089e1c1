"""Weight merge over two tasks through its launcher, then LoRA scales: real scenes, Ray and FSDP."""

import json
import subprocess
from pathlib import Path

import pytest

from rlinf.reporting import ledger
from tests.small_policy import write_policy

LAUNCHERS = Path(__file__).resolve().parents[2] / "examples" / "crl_experiment"
TINY = "crl_experiment/libero_spatial_grpo_tiny"
SEED = 7


def _run(script: str, *words: str) -> str:
    done = subprocess.run(
        ["bash", str(LAUNCHERS / script), *words], capture_output=True, text=True, timeout=500, check=False
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-5000:]
    return done.stdout


@pytest.mark.slow
def test_two_tasks_are_merged_and_scaled(tmp_path):
    model, logs = write_policy(tmp_path / "small"), tmp_path / "logs"
    settings = [
        f"actor.checkpoint_load_path={model}", f"rollout.model_dir={model}", f"actor.tokenizer.tokenizer_model={model}",
        f"runner.logger.log_root={logs}", "actor.model.lora_rank=4", "actor.optim.lr=0.1",
        "algorithm.num_group_envs=1", "algorithm.group_size=2", "algorithm.filter_rewards=false",
        "algorithm.entropy_bonus=1.0", "env.num_envs_per_worker=2", "env.train.max_episode_steps=16",
        "env.eval.max_episode_steps=16", "env.eval.episodes_per_task=1", "env.eval_task_ids=[0,1]",
        "cluster.num_env_workers=1", "actor.global_batch_size=8", "actor.micro_batch_size=4",
    ]  # fmt: skip
    out = _run("run_embodiment_weight_merge.sh", "0,1", "0.5", TINY, str(SEED), *settings, "runner.max_epochs=1")
    assert "merged      " in out
    last = max((logs / "weight_merge" / f"task_1_seed{SEED}" / "checkpoints").iterdir()) / "actor"
    lineage = json.loads((last / "lineage.json").read_text())
    assert lineage["learnt_tasks"] == [0, 1]
    assert lineage["merge_coeff"] == 0.5
    assert [f"task_0_seed{SEED}" in path for path in lineage["merged"]] == [True]

    location = str(logs / "weight_merge" / f"task_1_seed{SEED}")
    _run("eval_embodiment.sh", location, "", TINY, *settings)
    _run("eval_embodiment_lora_scale.sh", location, "0", "0", "", TINY, *settings)
    records = ledger.read(logs / "weight_merge" / "evaluations.jsonl")
    rows = [(record.row, record.lora_scale, record.previous_coeff, record.probe) for record in records]
    assert rows == [
        ("base", 1.0, None, False),
        ("task_0", 0.5, None, False),
        ("task_1", 0.5, 0.5, False),
        ("task_1", 0.5, 0.5, False),
        ("task_1", 0.0, 0.0, True),
    ]
    assert {record.method for record in records} == {"weight_merge"}
    assert ledger.success_matrix(records, method="weight_merge", seed=SEED).success_RK.shape == (3, 2)
