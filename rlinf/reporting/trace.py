"""Who waits for whom: what each process of a run does when, in a file that Perfetto and chrome://tracing show.

Every process keeps spans of its own in ``RECORDER``, workers where the environment says so (``VARIABLE``); the driver
fetches them after each epoch. While a recorder is off, nothing is kept.
"""

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import wraps
from pathlib import Path
from typing import NamedTuple, ParamSpec, TypeVar

VARIABLE = "RLINF_TRACE"
P = ParamSpec("P")
R = TypeVar("R")
_NOTHING = nullcontext()
_END = "\n]\n"


class Span(NamedTuple):
    """What a process did from when to when, in nanoseconds since 1970; spans of one ``lane`` are nested or apart."""

    name: str
    start_ns: int
    end_ns: int
    lane: str = ""


class Recorder:
    """The spans of one process."""

    def __init__(self, *, is_on: bool) -> None:
        self.is_on = is_on
        self._spans: list[Span] = []

    def span(self, name: str) -> AbstractContextManager[None]:
        """What happens inside is a span."""
        return self._timed(name) if self.is_on else _NOTHING

    @contextmanager
    def _timed(self, name: str) -> Iterator[None]:
        start_ns = time.time_ns()
        try:
            yield
        finally:
            self.add(name, start_ns)

    def add(self, name: str, start_ns: int, *, lane: str = "") -> None:
        """A span that ends now."""
        if self.is_on:
            self._spans.append(Span(name, start_ns, time.time_ns(), lane))

    def take(self) -> list[Span]:
        """All spans since the last call."""
        spans, self._spans = self._spans, []
        return spans


RECORDER = Recorder(is_on=os.environ.get(VARIABLE) == "1")


def traced(name: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Every call of the function is a span."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            with RECORDER.span(name):
                return function(*args, **kwargs)

        return call

    return decorate


class Traced:
    """Mixed into a worker's class."""

    def take_spans(self) -> list[Span]:
        """All spans of this process since the last call."""
        return RECORDER.take()


class TraceFile:
    """Chrome's trace format: a row for each process, in the order in which they are first named; complete after each
    ``add``."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._processes: dict[str, int] = {}
        self._lanes: dict[tuple[str, str], int] = {}
        path.write_text("[" + _END, encoding="utf-8")

    def add(self, spans: Mapping[str, Sequence[Span]]) -> None:
        """More spans, by the name of their process."""
        events = [event for process, own in spans.items() for event in self._events(process, own)]
        is_first = self._path.stat().st_size == len("[" + _END)
        with self._path.open("r+", encoding="utf-8") as file:
            file.seek(0, os.SEEK_END)
            file.seek(file.tell() - len(_END))
            lines = ",\n".join(json.dumps(event) for event in events)
            file.write(("\n" if is_first or not lines else ",\n") + lines + _END)

    def _events(self, process: str, spans: Sequence[Span]) -> Iterator[dict[str, object]]:
        if process not in self._processes:
            number = self._processes[process] = len(self._processes)
            yield {"ph": "M", "name": "process_name", "pid": number, "args": {"name": process}}
            yield {"ph": "M", "name": "process_sort_index", "pid": number, "args": {"sort_index": number}}
        pid = self._processes[process]
        for name, start_ns, end_ns, lane in spans:
            if (process, lane) not in self._lanes:
                tid = self._lanes[process, lane] = len(self._lanes)
                yield {"ph": "M", "name": "thread_name", "pid": pid, "tid": tid, "args": {"name": lane or "main"}}
            tid = self._lanes[process, lane]
            microseconds = {"ts": start_ns / 1000, "dur": (end_ns - start_ns) / 1000}
            yield {"ph": "X", "name": name, "pid": pid, "tid": tid, **microseconds}
