"""One progress bar for every long step: a bar on a terminal, a line every ten seconds in a log file.

Bars nest: an inner one opened while an outer one runs is drawn below it and disappears when it is done.
"""

import os
import sys
from typing import Any, TextIO

from tqdm import tqdm

from rlinf.reporting import ReportingError

STYLE_VARIABLE = "RLINF_PROGRESS"
STYLES = ("auto", "bar", "lines", "off")
_INTERVAL_S = 10.0
_BAR = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} {unit} [{elapsed}<{remaining}{postfix}]"
_LINE = "{desc}: {n_fmt}/{total_fmt} {unit}, {elapsed} elapsed, {remaining} left{postfix}"


class _Lines(tqdm):  # type: ignore[misc]  # it has no types
    """Lines instead of a bar: none in the first seconds, and one at the end unless it would say the same again."""

    monitor_interval = 0
    shown = 0

    def display(self, msg: str | None = None, pos: int | None = None) -> bool:
        if self.n != self.shown:
            self.shown = self.n
            self.fp.write(f"{self}\n")
            self.fp.flush()
        return False  # nothing that could be cleared

    def close(self) -> None:
        if not self.disable and self._time() - self.start_t >= self.delay:
            self.display()
        super().close()


class Progress:
    """Progress of one step of ``total`` units (episodes, batches, epochs); use it with ``with``.

    Where the stream is no terminal, lines are printed at most every ten seconds, and one at the end if the step took
    longer than that: short steps leave a log clean. ``RLINF_PROGRESS`` = bar, lines or off overrides the choice.
    Everything goes to stderr: stdout belongs to results.
    """

    def __init__(self, description: str, *, total: int, unit: str = "it", stream: TextIO | None = None) -> None:
        stream = sys.stderr if stream is None else stream
        self.done = 0
        settings: dict[str, Any] = {"desc": description, "total": total, "unit": unit, "file": stream}
        style = _style(stream)
        if style == "lines":
            rare = {"delay": _INTERVAL_S, "mininterval": _INTERVAL_S, "miniters": 1, "smoothing": 0}
            self._bar = _Lines(**settings, **rare, bar_format=_LINE, leave=False)
        else:
            nested = any(not bar.disable for bar in getattr(tqdm, "_instances", ()))
            settings |= {"leave": not nested, "dynamic_ncols": True, "disable": style == "off"}
            self._bar = tqdm(**settings, bar_format=_BAR)

    def advance(self, units: int = 1, *, note: str = "") -> None:
        """Count finished units; ``note`` is a short text shown behind the numbers, such as ``success 34 %``."""
        self.done += units
        if note:
            self._bar.set_postfix_str(note, refresh=False)
        self._bar.update(units)

    def reach(self, done: int, *, note: str = "") -> None:
        """Count up to ``done`` finished units; it never goes back."""
        if done > self.done:
            self.advance(done - self.done, note=note)

    def close(self) -> None:
        """End the step; further calls do nothing."""
        self._bar.close()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _style(stream: TextIO) -> str:
    style = os.environ.get(STYLE_VARIABLE, "auto")
    if style not in STYLES:
        raise ReportingError(f"{STYLE_VARIABLE} must be one of {', '.join(STYLES)}, given '{style}'")
    if style != "auto":
        return style
    return "bar" if stream.isatty() and os.environ.get("TERM") != "dumb" else "lines"
