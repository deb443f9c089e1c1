"""Metric files and TensorBoard events, also across a killed and resumed run; files of traces."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from rlinf.reporting import ReportingError
from rlinf.reporting.loggers import MetricLogger, read_metrics
from rlinf.reporting.trace import Span, TraceFile


def open_logger(folder: Path, *backends: str) -> MetricLogger:
    return MetricLogger(folder, backends=backends, project="p", experiment="e", config={"runner": {"seed": 1}})


def test_metrics_are_written_and_read(tmp_path: Path) -> None:
    with open_logger(tmp_path / "run") as log:
        log.log({"rollout/success_rate": 0.25, "time/rollout": np.float32(2.5)}, step=1)
        log.log({"train/entropy": torch.tensor(1.5)}, step=1)
        log.log({"rollout/success_rate": 0.5}, step=2)
    path = tmp_path / "run" / "metrics.jsonl"
    assert read_metrics(path) == {
        1: {"rollout/success_rate": 0.25, "time/rollout": 2.5, "train/entropy": 1.5},
        2: {"rollout/success_rate": 0.5},
    }
    first = json.loads(path.read_text().splitlines()[0])
    assert first.keys() == {"step", "time", "metrics"}
    assert first["time"].endswith("+00:00")


def test_a_resumed_run_supersedes_what_it_repeats(tmp_path: Path) -> None:
    with open_logger(tmp_path) as log:
        for step in range(1, 6):
            log.log({"loss": float(step), "old": 1.0}, step=step)
    with open_logger(tmp_path) as log:  # resumed from the checkpoint of step 2, stopped again at 4
        for step in (3, 4):
            log.log({"loss": 10.0 * step}, step=step)
    assert read_metrics(tmp_path / "metrics.jsonl") == {
        1: {"loss": 1.0, "old": 1.0},
        2: {"loss": 2.0, "old": 1.0},
        3: {"loss": 30.0},
        4: {"loss": 40.0},
    }


def test_not_a_number_survives_the_file(tmp_path: Path) -> None:
    with open_logger(tmp_path) as log:
        log.log({"loss": math.nan, "ratio": -math.inf}, step=0)
    values = read_metrics(tmp_path / "metrics.jsonl")[0]
    assert math.isnan(values["loss"])
    assert values["ratio"] == -math.inf


def test_damaged_metric_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "metr\n{"step": 2, "metrics": {}}\n')
    with pytest.raises(ReportingError, match="line 1 is no JSON"):
        read_metrics(path)
    path.write_text('{"step": "1", "metrics": {}}\n')
    with pytest.raises(ReportingError, match="line 1 must hold an integer 'step'"):
        read_metrics(path)
    path.write_text('{"step": 1, "metrics": {"a": null}}\n')
    with pytest.raises(ReportingError, match="line 1: metrics must be numbers"):
        read_metrics(path)


def test_unknown_backends_are_named(tmp_path: Path) -> None:
    with pytest.raises(ReportingError, match=r"unknown logger backends \['tensorbord'\].*\['tensorboard', 'wandb'\]"):
        open_logger(tmp_path / "run", "tensorbord")
    assert not (tmp_path / "run").exists()


def test_missing_wandb_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)  # what the import system does for a package that is not there
    with pytest.raises(ReportingError, match=r"pip install wandb.*remove it from runner.logger.logger_backends"):
        open_logger(tmp_path, "wandb")


def test_tensorboard_reads_what_we_write_and_forgets_superseded_steps(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    with open_logger(tmp_path, "tensorboard") as log:
        for step in range(1, 6):
            log.log({"loss": float(step)}, step=step)
    with open_logger(tmp_path, "tensorboard") as log:
        for step in (3, 4):
            log.log({"loss": 10.0 * step, "train/entropy": 0.5}, step=step)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(1, 1), (2, 2), (3, 30), (4, 40)]
    assert [event.step for event in events.Scalars("train/entropy")] == [3, 4]
    text = events.Tensors("settings/text_summary")[0].tensor_proto.string_val[0]
    assert b'"seed": 1' in text


def test_a_trace_is_complete_after_each_addition(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    file = TraceFile(path)
    assert json.loads(path.read_text()) == []
    file.add({"driver": [], "env 0": [Span("step", 5000, 8000), Span("step", 9000, 9500, "other")]})
    file.add({})
    file.add({"driver": [Span("rollout", 4000, 9000)], "env 0": [Span("step", 10000, 10001)]})
    events = json.loads(path.read_text())
    rows = {event["pid"]: event["args"]["name"] for event in events if event["name"] == "process_name"}
    assert rows == {0: "driver", 1: "env 0"}
    lanes = {(event["pid"], event["tid"]): event["args"]["name"] for event in events if event["name"] == "thread_name"}
    spans = [
        (rows[event["pid"]], lanes[event["pid"], event["tid"]], event["name"], event["ts"], event["dur"])
        for event in events
        if event["ph"] == "X"
    ]
    assert spans == [
        ("env 0", "main", "step", 5.0, 3.0),
        ("env 0", "other", "step", 9.0, 0.5),
        ("driver", "main", "rollout", 4.0, 5.0),
        ("env 0", "main", "step", 10.0, 0.001),
    ]
