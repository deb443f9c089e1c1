"""The ledger: what is written is read again, whatever dies or writes at the same time."""

from __future__ import annotations

import json
import logging
import multiprocessing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from rlinf.reporting import ReportingError, ledger
from rlinf.reporting.jsonlines import append_line, read_lines
from rlinf.reporting.ledger import EvaluationRecord, not_evaluated


def record(row: str = "base", learnt: tuple[int, ...] = (), **changes: Any) -> EvaluationRecord:
    values: dict[str, Any] = {
        "method": "sequential",
        "row": row,
        "learnt_tasks": learnt,
        "seed": 1234,
        "suite": "libero_spatial",
        "checkpoint": "base" if not learnt else f"task_{learnt[-1]}_seed1234/checkpoints/global_step_10",
        "success": {0: 0.25, 1: 0.5, 10: 1.0},
        "episodes": {0: 8, 1: 8, 10: 8},
        "success_once": 0.6,
        "success_at_end": 0.5,
        "mean_return": 3.0,
        "mean_episode_len": 120.5,
        "temperature": 1.6,
        "assets": "generated",
        "config_hash": "abc123",
        "versions": {"torch": "2.13.0"},
        "time": "2026-01-02T03:04:05+00:00",
        "wall_seconds": 12.5,
        "videos": ("videos/base_task_0.webp",),
    }
    return EvaluationRecord(**(values | changes))


def test_records_come_back_equal_and_in_order(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "evaluations.jsonl"
    records = [record(), record("task_1", (1,)), record("task_0", (1, 0))]
    for entry in records:
        ledger.append(path, entry)
    assert ledger.read(path) == records
    first = json.loads(path.read_text().splitlines()[0])
    assert first["success"] == {"0": 0.25, "1": 0.5, "10": 1.0}
    assert first["learnt_tasks"] == []


def test_decoding_states_and_scales_come_back(tmp_path: Path) -> None:
    path = tmp_path / "evaluations.jsonl"
    scaled = record(
        "task_1", (0, 1), decoding="sample", init_states={0: "0-7", 10: "0-3,9"}, lora_scale=0.5, previous_coeff=0.8,
        probe=True,
    )  # fmt: skip
    ledger.append(path, scaled)
    assert ledger.read(path) == [scaled]
    assert json.loads(path.read_text())["init_states"] == {"0": "0-7", "10": "0-3,9"}
    assert scaled.decoding_name == "sampled at temperature 1.6"
    assert record(temperature=0.0, decoding="greedy").decoding_name == "greedy"


def test_lines_from_before_these_fields_can_still_be_read(tmp_path: Path) -> None:
    path = tmp_path / "evaluations.jsonl"
    ledger.append(path, record())
    entry = json.loads(path.read_text())
    for name in ("decoding", "init_states", "lora_scale", "previous_coeff", "probe", "videos"):
        del entry[name]
    path.write_text(json.dumps(entry) + "\n")
    (old,) = ledger.read(path)
    assert (old.lora_scale, old.previous_coeff, old.probe, old.init_states) == (1.0, None, False, {})
    assert old.decoding_name == "sampled at temperature 1.6"


def test_probes_never_enter_the_matrix() -> None:
    own = record("task_0", (0,), success={0: 0.9, 1: 0.7, 10: 0.5})
    probe = record("task_0", (0,), success={0: 0.0, 1: 0.0, 10: 0.0}, lora_scale=0.25, probe=True)
    assert ledger.rows([record(), own, probe]) == [record(), own]
    matrix = ledger.success_matrix([record(), own, probe])
    assert matrix.success_RK[1].tolist() == [0.9, 0.7, 0.5]
    with pytest.raises(ReportingError, match="the only evaluations are of other LoRA scales"):
        ledger.success_matrix([probe])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"success": {0: 1.5, 1: 0.0, 10: 0.0}}, r"rates in 0\.\.1"),
        ({"success_once": float("nan")}, "no NaN"),
        ({"success": {}, "episodes": {}}, "at least one task"),
        ({"episodes": {0: 8}}, r"positive count for each of the tasks \[0, 1, 10\]"),
        ({"mean_return": float("nan")}, "finite number"),
        ({"row": "after"}, "row must be 'base'"),
        ({"learnt_tasks": (0,)}, "'base' must end its learnt_tasks with"),
        ({"row": "task_1", "learnt_tasks": (1, 0)}, "must end its learnt_tasks with"),
        ({"row": "task_1", "learnt_tasks": (1, 1)}, "no repeats"),
        ({"lora_scale": float("inf")}, "lora_scale must be a finite number"),
    ],
)
def test_wrong_values_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ReportingError, match=message):
        record(**changes)


def test_a_torn_last_line_is_skipped_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "evaluations.jsonl"
    ledger.append(path, record())
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:50])
    with caplog.at_level(logging.WARNING):
        assert ledger.read(path) == [record()]
    assert f"{path} line 2 is cut short" in caplog.text
    assert path.read_bytes() == whole + whole[:50], "reading must not change the file"


@pytest.mark.parametrize("cut", [50, 200_000])
def test_appending_after_a_torn_line_keeps_both_neighbours(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "evaluations.jsonl"
    ledger.append(path, record())
    with path.open("ab") as file:
        file.write((b'{"method": "' + b"x" * 300_000)[:cut])
    ledger.append(path, record("task_0", (0,)))
    assert ledger.read(path) == [record(), record("task_0", (0,))]


def test_appending_after_a_missing_newline_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "evaluations.jsonl"
    ledger.append(path, record())
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
    assert ledger.read(path) == [record()]
    ledger.append(path, record("task_0", (0,)))
    assert ledger.read(path) == [record(), record("task_0", (0,))]


def test_a_corrupt_middle_line_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "evaluations.jsonl"
    for entry in (record(), record("task_0", (0,)), record("task_1", (0, 1))):
        ledger.append(path, entry)
    lines = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([lines[0], lines[1][:30], *lines[2:]]))
    with pytest.raises(ReportingError, match=f"{path} line 2 is no JSON"):
        ledger.read(path)
    path.write_bytes(b"\n".join([lines[0], b"[1]", *lines[2:]]))
    with pytest.raises(ReportingError, match="line 2 must be a JSON object, given list"):
        ledger.read(path)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda e: e.pop("seed"), "line 1: .*missing .*'seed'"),
        (lambda e: e.update(colour="red"), "line 1: .*unexpected .*'colour'"),
        (lambda e: e.update(success={"a": 1.0}), "line 1: .*'a'"),
        (lambda e: e.update(learnt_tasks="0"), "line 1: learnt_tasks must be of type tuple, given '0'"),
        (lambda e: e.update(seed=1.5), "line 1: seed must be of type int, given 1.5"),
        (lambda e: e.update(previous_coeff="all"), "line 1: previous_coeff must be of type float . None"),
    ],
)
def test_lines_of_the_wrong_shape_name_file_line_and_field(tmp_path: Path, edit: Any, message: str) -> None:
    path = tmp_path / "evaluations.jsonl"
    ledger.append(path, record())
    entry = json.loads(path.read_text())
    edit(entry)
    path.write_text(json.dumps(entry) + "\n")
    with pytest.raises(ReportingError, match=message):
        ledger.read(path)


def _write_many(path: Path, writer: int, count: int) -> None:
    for number in range(count):
        append_line(path, {"writer": writer, "number": number, "padding": "x" * 5000})


def test_concurrent_writers_lose_and_mix_nothing(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_write_many, args=(path, writer, 25)) for writer in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    seen = [(entry["writer"], entry["number"]) for _, entry in read_lines(path)]
    assert sorted(seen) == [(writer, number) for writer in range(4) for number in range(25)]
    for writer in range(4):
        assert [number for who, number in seen if who == writer] == list(range(25))


def test_success_matrix_has_base_first_and_stages_in_order() -> None:
    records = [
        record("task_0", (1, 0), success={0: 0.9, 1: 0.7, 10: 0.5}),
        record(),
        record("task_1", (1,), success={0: 0.3, 1: 0.8, 10: 0.6}),
    ]
    matrix = ledger.success_matrix(records)
    assert matrix.tasks == (0, 1, 10)
    assert matrix.stages == ((), (1,), (0,))
    assert matrix.success_RK.tolist() == [[0.25, 0.5, 1.0], [0.3, 0.8, 0.6], [0.9, 0.7, 0.5]]
    assert matrix.episodes_RK.tolist() == [[8, 8, 8]] * 3


def test_the_last_evaluation_of_a_row_counts() -> None:
    again = record(success={0: 1.0, 1: 1.0, 10: 1.0})
    matrix = ledger.success_matrix([record(), again])
    assert matrix.success_RK.tolist() == [[1.0, 1.0, 1.0]]


def test_earlier_checkpoints_and_partial_evaluations_do_not_replace_a_row() -> None:
    final = record("task_0", (0,), checkpoint="logs/task_0_seed1234/checkpoints/global_step_10/actor")
    early = record("task_0", (0,), checkpoint="task_0_seed1234/global_step_5", success={0: 0.0, 1: 0.0, 10: 0.0})
    partial = record("task_0", (0,), checkpoint="task_0_seed1234/global_step_10", success={1: 0.0}, episodes={1: 2})
    again = record("task_0", (0,), checkpoint="task_0_seed1234/global_step_10", success={0: 0.1, 1: 0.2, 10: 0.3})
    assert ledger.rows([record(), final, early, partial]) == [record(), final]
    assert ledger.rows([final, again, early, record()]) == [record(), again]


def test_a_row_is_evaluated_when_it_is_at_every_temperature_that_is_asked_for() -> None:
    records = [record(temperature=1.0), record(temperature=0.0, suite="libero_goal")]
    missing = partial(not_evaluated, records, ("libero_spatial", "libero_goal"), method="sequential", seed=1234)
    assert missing(row="base") == ()
    assert missing(row="base", temperatures=[1.0]) == ("libero_goal",)
    assert missing(row="base", temperatures=[1.0, 0.0]) == ("libero_spatial", "libero_goal")


def test_joint_training_is_one_stage() -> None:
    matrix = ledger.success_matrix([record(), record("tasks_0_10", (0, 10))])
    assert matrix.stages == ((), (0, 10))


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([record(), record("task_1", (0, 1))], "an evaluation is missing"),
        ([record(), record("task_0", (0,)), record("task_1", (1,))], "two task orders are mixed"),
        ([record(), record("task_0", (0,), success={2: 1.0}, episodes={2: 8})], "no task was evaluated in every row"),
    ],
)
def test_rows_that_do_not_belong_together_are_refused(records: list[EvaluationRecord], message: str) -> None:
    with pytest.raises(ReportingError, match=message):
        ledger.success_matrix(records)


def test_columns_are_the_tasks_of_all_rows_and_the_base_may_be_missing() -> None:
    after = record("task_0", (0,), success={0: 1.0, 1: 0.5}, episodes={0: 8, 1: 8})
    assert ledger.success_matrix([record(), after]).tasks == (0, 1)
    assert not ledger.success_matrix([after]).has_base
