"""Options of a run, in one run: dynamic sampling, evaluations while training and at two temperatures."""

import json

import pytest

from rlinf.reporting import ledger
from tests.launchers import SEED, TINY, command, run


@pytest.mark.slow
def test_rounds_until_groups_carry_a_signal_and_two_temperatures(small_policy, tmp_path):
    """Random weights never succeed: no group carries a signal, and all rounds that are allowed are played."""
    words = ["0", "", "2", TINY, str(SEED), "env.eval_task_ids=[0]", "algorithm.max_rollout_epoch=3"]
    words += ["env.eval.temperatures=[1.0,0.0]", "algorithm.filter_rewards=true", "runner.val_check_interval=2"]
    call = command("run_embodiment_sequential.sh", *words, model=small_policy, logs=tmp_path)
    run(call)
    folder = tmp_path / "sequential" / f"task_0_seed{SEED}"
    lines = [json.loads(line)["metrics"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    trained = [line for line in lines if "train/num_steps" in line]
    assert [line["rollout/num_episodes"] for line in trained] == 2 * [3 * 2], "rounds of a group of two"
    in_both = {f"time/{name}" for name in ("log", "sync_weights", "rollout", "update", "save")}
    for line, parts in zip(trained, (in_both, in_both | {"time/end_task", "time/evaluate"}), strict=True):
        others = {"time/epoch", "time/inference", "time/waiting_for_simulator"}
        assert {name for name in line if name.startswith("time/")} == parts | others
        assert abs(sum(line[name] for name in parts) - line["time/epoch"]) < 0.005
    evaluated = {name for line in lines for name in line if name.startswith("eval/")}
    assert {"eval/env_info/success_once", "eval/env_info_temperature_0/success_once"} <= evaluated
    records = ledger.read(tmp_path / "sequential" / "evaluations.jsonl")
    assert [(record.row, record.decoding, record.temperature) for record in records] == [
        (row, *way) for row in ("base", "task_0") for way in (("sample", 1.0), ("greedy", 0.0))
    ]
    assert len({str(record.init_states) for record in records}) == 1
    assert "done before, skipped" in run(call)
