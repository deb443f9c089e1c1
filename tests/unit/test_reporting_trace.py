"""Spans of processes, and the file that shows them."""

import json

from rlinf.reporting.trace import Span, TraceFile


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
