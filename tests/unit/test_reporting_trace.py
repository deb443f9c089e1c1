"""Spans of processes, and the file that shows them."""

import json

from rlinf.reporting.trace import Recorder, Span, TraceFile


def test_a_recorder_that_is_off_keeps_nothing():
    recorder = Recorder(is_on=False)
    with recorder.span("outer"):
        recorder.add("inner", 0)
    assert recorder.take() == []


def test_spans_are_nested_as_they_ran_and_taken_once():
    recorder = Recorder(is_on=True)
    with recorder.span("outer"), recorder.span("inner"):
        pass
    inner, outer = recorder.take()
    assert (inner.name, outer.name) == ("inner", "outer")
    assert outer.start_ns <= inner.start_ns <= inner.end_ns <= outer.end_ns
    assert recorder.take() == []


def test_a_file_is_complete_after_each_addition(tmp_path):
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
