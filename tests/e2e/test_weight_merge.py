"""Weight merge over two tasks through its launcher, then LoRA scales: real scenes, Ray and FSDP."""

import json

import pytest

from rlinf.reporting import ledger
from tests.launchers import SEED, TINY, launch


@pytest.mark.slow
def test_two_tasks_are_merged_and_scaled(small_policy, tmp_path):
    model, logs = small_policy, tmp_path / "logs"
    settings = ("actor.optim.lr=0.1", "algorithm.entropy_bonus=1.0", "env.eval_task_ids=[0,1]")
    out = launch(
        "run_embodiment_weight_merge.sh", "0,1", "0.5", TINY, str(SEED), *settings, "runner.max_epochs=1",
        model=model, logs=logs,
    )  # fmt: skip
    assert "merged      " in out
    last = max((logs / "weight_merge" / f"task_1_seed{SEED}" / "checkpoints").iterdir()) / "actor"
    lineage = json.loads((last / "lineage.json").read_text())
    assert (lineage["learnt_tasks"], lineage["merge_coeff"]) == ([0, 1], 0.5)
    assert [f"task_0_seed{SEED}" in path for path in lineage["merged"]] == [True]

    location = str(logs / "weight_merge" / f"task_1_seed{SEED}")
    launch("eval_embodiment_lora_scale.sh", location, "0", "0", "", TINY, *settings, model=model, logs=logs)
    records = ledger.read(logs / "weight_merge" / "evaluations.jsonl")
    rows = [(record.row, record.lora_scale, record.previous_coeff, record.probe) for record in records]
    assert rows == [
        ("base", 1.0, None, False),
        ("task_0", 0.5, None, False),
        ("task_1", 0.5, 0.5, False),
        ("task_1", 0.0, 0.0, True),
    ]
    assert {record.method for record in records} == {"weight_merge"}
    assert ledger.success_matrix(records).success_RK.shape == (3, 2)
