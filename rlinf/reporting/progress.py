"""One progress bar for every long step: a bar on a terminal, a line every ten seconds in a log file.

Bars nest: an inner one opened while an outer one runs is drawn below it and disappears when it is done.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import TextIO

from tqdm import tqdm

from rlinf.reporting import ReportingError

STYLE_VARIABLE = "RLINF_PROGRESS"
STYLES = ("auto", "bar", "lines", "off")
_BAR_FORMAT = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} {unit} [{elapsed}<{remaining}{postfix}]"


class Progress:
    """Progress of one step of ``total`` units (episodes, batches, epochs); use it with ``with``.

    Where the stream is no terminal, lines are printed at most every ``interval_seconds``, and one at the end if the
    step took longer than that: short steps leave a log clean. ``RLINF_PROGRESS`` = bar, lines or off overrides the
    choice. Everything goes to stderr: stdout belongs to results.
    """

    def __init__(
        self,
        description: str,
        *,
        total: int,
        unit: str = "it",
        stream: TextIO | None = None,
        interval_seconds: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.description, self.total, self.unit = description, total, unit
        self.done = 0
        self._stream = sys.stderr if stream is None else stream
        self._interval, self._clock = interval_seconds, clock
        self._started = self._printed = clock()
        self._note = ""
        self._shown: int | None = None  # how much was done when the last line was printed
        self._style = _style(self._stream)
        self._bar: tqdm[None] | None = None
        if self._style == "bar":
            nested = any(not bar.disable for bar in getattr(tqdm, "_instances", ()))
            self._bar = tqdm(
                desc=description,
                total=total,
                unit=unit,
                file=self._stream,
                leave=not nested,
                dynamic_ncols=True,
                bar_format=_BAR_FORMAT,
            )

    def advance(self, units: int = 1, *, note: str = "") -> None:
        """Count finished units; ``note`` is a short text shown behind the numbers, such as ``success 34 %``."""
        self.done += units
        self._note = note or self._note
        if self._bar is not None:
            if note:
                self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(units)
        elif self._style == "lines" and self._clock() - self._printed >= self._interval:
            self._print_line()

    def reach(self, done: int, *, note: str = "") -> None:
        """Count up to ``done`` finished units; it never goes back."""
        if done > self.done:
            self.advance(done - self.done, note=note)

    def close(self) -> None:
        """End the step; further calls do nothing."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        elif self._style == "lines" and self._shown != self.done and self._clock() - self._started >= self._interval:
            self._print_line()
        self._style = "off"

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _print_line(self) -> None:
        self._printed, self._shown = self._clock(), self.done
        elapsed = self._printed - self._started
        parts = [f"{self.description}: {self.done}/{self.total} {self.unit}", f"{_duration(elapsed)} elapsed"]
        if 0 < self.done < self.total:
            parts.append(f"{_duration(elapsed / self.done * (self.total - self.done))} left")
        if self._note:
            parts.append(self._note)
        self._stream.write(", ".join(parts) + "\n")
        self._stream.flush()


def _style(stream: TextIO) -> str:
    style = os.environ.get(STYLE_VARIABLE, "auto")
    if style not in STYLES:
        raise ReportingError(f"{STYLE_VARIABLE} must be one of {', '.join(STYLES)}, given '{style}'")
    if style != "auto":
        return style
    return "bar" if stream.isatty() and os.environ.get("TERM") != "dumb" else "lines"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
