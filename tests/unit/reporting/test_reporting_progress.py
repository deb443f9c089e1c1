"""Progress on a terminal and in a log file, with a clock of our own."""

from __future__ import annotations

import contextlib
import io

import pytest

from rlinf.reporting import ReportingError, progress
from rlinf.reporting.progress import Progress


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("tqdm.std.time", clock)
    return clock


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RLINF_PROGRESS", raising=False)
    monkeypatch.setenv("TERM", "xterm")


def test_a_log_file_gets_a_line_every_ten_seconds_and_one_at_the_end(clock: Clock) -> None:
    stream = io.StringIO()
    with Progress("rollout 1/4", total=40, unit="episodes", stream=stream) as bar:
        for _ in range(32):
            clock.now += 1.0
            bar.advance(note=f"success {bar.done} %")
    lines = stream.getvalue().splitlines()
    assert lines[0] == "rollout 1/4: 10/40 episodes, 00:10 elapsed, 00:30 left, success 9 %"
    assert [line.split(",")[0] for line in lines[1:]] == [
        "rollout 1/4: 20/40 episodes",
        "rollout 1/4: 30/40 episodes",
        "rollout 1/4: 32/40 episodes",
    ]
    assert "\r" not in stream.getvalue()


def test_short_steps_leave_a_log_file_clean(clock: Clock) -> None:
    stream = io.StringIO()
    with Progress("update", total=3, stream=stream) as bar:
        bar.advance(3)
    assert stream.getvalue() == ""


def test_hours_are_written_as_such(clock: Clock) -> None:
    stream = io.StringIO()
    with Progress("epochs", total=2, stream=stream) as bar:
        clock.now += 3725
        bar.advance()
        assert stream.getvalue() == "epochs: 1/2 it, 1:02:05 elapsed, 1:02:05 left\n"


def test_a_terminal_gets_a_bar_and_nested_bars_disappear() -> None:
    stream = Terminal()
    with Progress("epochs", total=2, unit="epochs", stream=stream) as outer:
        with Progress("rollout", total=4, unit="episodes", stream=stream) as inner:
            inner.advance(4, note="success 50 %")
        outer.advance(2)
    text = stream.getvalue()
    assert "\r" in text
    assert "rollout" in text
    last = text.rstrip("\n").split("\r")[-1]
    assert "100%" in last
    assert "2/2 epochs" in last


def test_an_error_ends_the_step_with_a_line(clock: Clock) -> None:
    stream = io.StringIO()
    with contextlib.suppress(RuntimeError), Progress("work", total=3, stream=stream) as bar:
        bar.advance()
        clock.now += 11
        raise RuntimeError("boom")
    assert stream.getvalue().startswith("work: 1/3 it, 00:11 elapsed")


def test_the_style_can_be_chosen(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = Terminal()
    monkeypatch.setenv(progress.STYLE_VARIABLE, "off")
    with Progress("work", total=1, stream=stream) as bar:
        clock.now += 60
        bar.advance()
    assert stream.getvalue() == ""
    monkeypatch.setenv(progress.STYLE_VARIABLE, "fancy")
    with pytest.raises(ReportingError, match="one of auto, bar, lines, off, given 'fancy'"):
        Progress("work", total=1, stream=stream)
