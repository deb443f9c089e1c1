"""Options of a run, in one run: dynamic sampling, evaluations while training and at two temperatures, a trace."""

import json

import pytest

from rlinf.reporting import ledger
from tests.launchers import SEED, TINY, command, run


def _check_trace(events, *, seconds: float) -> None:
    """Each process has its row; its spans are nested or apart, and within what the driver does."""
    row_of = {event["pid"]: event["args"]["name"] for event in events if event["name"] == "process_name"}
    assert list(row_of.values()) == ["driver", "actor 0", "rollout 0", "env 0"]
    lanes: dict[tuple[str, int], list[tuple[float, float, str]]] = {}
    for event in events:
        if event["ph"] == "X":
            own = lanes.setdefault((row_of[event["pid"]], event["tid"]), [])
            own.append((event["ts"], event["ts"] + event["dur"], event["name"]))
    names = {row: {name for (of, _), own in lanes.items() if of == row for *_, name in own} for row in row_of.values()}
    assert names == {
        "driver": {"evaluate", "sync_weights", "rollout", "update", "end_task", "save", "log"},
        "actor 0": {"gather weights", "update", "read samples", "end task", "save"},  # no sample, so no step
        "rollout 0": {
            "load weights", "collect", "submit", "wait for simulators", "act", "read answer", "prepare", "policy",
            "hand over actions", "inference",
        },
        "env 0": {"reset", "build scene", "step", "simulate", "draw"},
    }  # fmt: skip
    phases = lanes["driver", 0]
    end = max(end for _, end, _ in phases)
    assert end - min(start for start, _, name in phases if name == "sync_weights") > 1e6 * seconds
    for (row, _), own in lanes.items():
        running: list[float] = []
        for start, until, name in sorted(own, key=lambda span: (span[0], -span[1])):
            while running and running[-1] <= start + 1:
                running.pop()
            assert until <= (running or [end])[-1] + 1, (row, name)
            is_saving = row == "actor 0" and name in ("gather weights", "save")  # while the driver goes on
            is_asked_for = any(first <= start and until <= last for first, last, _ in phases)
            assert row == "driver" or is_saving or is_asked_for, (row, name)
            running.append(until)


@pytest.mark.slow
def test_rounds_until_groups_carry_a_signal_and_two_temperatures(small_policy, tmp_path):
    """Random weights never succeed: no group carries a signal, and all rounds that are allowed are played."""
    words = ["0", "", "2", TINY, str(SEED), "env.eval_task_ids=[0]", "algorithm.max_rollout_epoch=3"]
    words += ["env.eval.temperatures=[1.0,0.0]", "algorithm.filter_rewards=true", "runner.val_check_interval=2"]
    words += ["runner.trace=true"]
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
    _check_trace(json.loads((folder / "trace.json").read_text()), seconds=sum(line["time/epoch"] for line in trained))
    evaluated = {name for line in lines for name in line if name.startswith("eval/")}
    assert {"eval/env_info/success_once", "eval/env_info_temperature_0/success_once"} <= evaluated
    records = ledger.read(tmp_path / "sequential" / "evaluations.jsonl")
    assert [(record.row, record.decoding, record.temperature) for record in records] == [
        (row, *way) for row in ("base", "task_0") for way in (("sample", 1.0), ("greedy", 0.0))
    ]
    assert len({str(record.init_states) for record in records}) == 1
    assert "done before, skipped" in run(call)
