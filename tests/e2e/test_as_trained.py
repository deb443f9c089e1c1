"""A policy that was fine-tuned on two cameras and random crops, through its launcher: it sees them all the way.

An evaluation of what was learnt: tests/unit/test_training_records.py."""

import json

import pytest
from omegaconf import OmegaConf

from rlinf.reporting import ledger
from tests.launchers import TINY, launch
from tests.unit.replay_demos import write_hdf5
from tests.unit.sft_runs import run

TAKEN_OVER = "actor.model.picture_path=oft_center_crop, as "


@pytest.mark.slow
def test_rollouts_and_replay_see_what_it_was_trained_on(small_policy, tmp_path):
    demos = write_hdf5(tmp_path / "demos", task_ids=[0, 1])
    model, logs = tmp_path / "policy", tmp_path / "logs"
    as_oft = ("--cameras", "agentview,eye_in_hand", "--pictures", "oft_random_crop")
    assert run(demos, model, "--init", str(small_policy), "--steps", "1", *as_oft) == 0
    own = (
        f"method.replay.demonstrations={demos}", "method.replay.tasks=seen", "env.cameras=[agentview,eye_in_hand]",
    )  # fmt: skip
    train = ("run_embodiment_er.sh", "0,1", "0.03", "", "1", TINY, "7", *own)
    assert TAKEN_OVER in launch(*train, model=model, logs=logs)
    for task in (0, 1):
        folder = logs / "er" / f"task_{task}_seed7"
        assert OmegaConf.load(folder / "config.yaml").actor.model.picture_path == "oft_center_crop"
        lineage = json.loads((folder / "checkpoints" / "global_step_1" / "actor" / "lineage.json").read_text())
        assert (lineage["picture_path"], lineage["cameras"]) == ("oft_center_crop", ["agentview", "eye_in_hand"])
    again = launch(*train, model=model, logs=logs)
    assert again.count("done before, skipped") >= 2, "the launcher, which reads no record, knows its own runs"
    assert {record.row for record in ledger.read(logs / "er" / "evaluations.jsonl")} == {"base", "task_0", "task_1"}
