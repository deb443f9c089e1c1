"""Where shapes of a plot lie: percentages of its frame, so that plots fit any screen. The template draws them.

Drawn by hand, as no library beat it: plotly's runtime makes every page 4.8 MB, Bokeh's 3.9 MB, Vega-Lite's 0.9 MB (and
180 MB to install), and all three need scripts, which the page's policy forbids; matplotlib's SVG takes 25 kB a plot,
150 of them in a study, and follows neither the window's width nor its colours.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from matplotlib.ticker import MaxNLocator

from rlinf.reporting.metrics import SuccessMatrix, wilson_interval
from rlinf.reporting.report.names import ordinal, percent

NUM_COLOURS = 8
_DASHES = ("", "5 3", "1.5 3")  # the palette again, told apart by dashes
_MAX_DOTS = 40  # of one piece of a curve; longer ones are lines
# Success rates from which a cell's text changes its ink, to stay readable: "middle" does so on dark pages only.
_MIDDLE, _STRONG = 0.55, 0.7


@dataclass(frozen=True)
class Point:
    """A point of a curve, what hovering over it tells, and the band around it."""

    x: float
    y: float
    low: float
    high: float
    title: str


def spread(x: float, values: Sequence[float], label: str) -> Point:
    """Mean of a rate with the smallest and the largest: what a few seeds did, whatever their distribution."""
    mean, low, high = sum(values) / len(values), min(values), max(values)
    return Point(x, mean, low, high, f"{label}: {percent(mean)} ({percent(low)} to {percent(high)})")


@dataclass(frozen=True)
class Curve:
    """``pieces`` are drawn unjoined, ``rings`` (x, y) around what was measured between epochs.

    ``colour`` indexes the palette; beyond its end curves are dashed.
    """

    label: str
    colour: int
    pieces: Sequence[Sequence[Point]]
    rings: Sequence[tuple[float, float]] = ()

    @property
    def points(self) -> list[Point]:
        """Of all pieces."""
        return [point for piece in self.pieces for point in piece]

    @property
    def dots(self) -> list[tuple[float, float]]:
        """Where dots are drawn; long pieces are lines alone."""
        return [(point.x, point.y) for piece in self.pieces if len(piece) <= _MAX_DOTS for point in piece]

    @property
    def fill(self) -> str:
        """Its colour."""
        return colour_of(self.colour)

    @property
    def style(self) -> str:
        """Its stroke, the same in every plot of a page."""
        dash = _DASHES[(self.colour // NUM_COLOURS) % len(_DASHES)]
        return f"stroke:{self.fill}" + (f";stroke-dasharray:{dash}" if dash else "")


@dataclass(frozen=True)
class Axis:
    """Ends of the x axis, what is written below at which places, and where stages begin: (x, name, colour or None)."""

    left: float
    right: float
    ticks: Sequence[tuple[float, str]]
    title: str
    stages: Sequence[tuple[float, str, int | None]] = ()


@dataclass(frozen=True)
class Plot:
    """Curves in a frame from the first to the last of ``y_ticks``; ``levels`` are dashed horizontal lines.

    Its methods say where things lie, in percent from the frame's left and upper edge, and how paths are written.
    """

    curves: Sequence[Curve]
    axis: Axis
    y_ticks: Sequence[float]
    show: Callable[[float], str] = percent
    levels: Sequence[tuple[str, float]] = ()

    def x(self, x: float) -> str:
        """From the left."""
        return f"{100 * (x - self.axis.left) / (self.axis.right - self.axis.left):.2f}"

    def y(self, y: float) -> str:
        """From above; what lies outside is at the edge."""
        low, high = self.y_ticks[0], self.y_ticks[-1]
        return f"{100 * (high - min(max(y, low), high)) / (high - low):.2f}"

    def line(self, piece: Sequence[Point]) -> str:
        """A path through points."""
        return "M" + "L".join(f"{self.x(point.x)} {self.y(point.y)}" for point in piece)

    def band(self, piece: Sequence[Point]) -> str:
        """A path around the band of some points; empty where there is none."""
        if len(piece) < 2 or all(point.low == point.high for point in piece):
            return ""
        edge = [(one.x, one.high) for one in piece] + [(one.x, one.low) for one in reversed(piece)]
        return "M" + "L".join(f"{self.x(x)} {self.y(y)}" for x, y in edge) + "Z"

    def marks(self, places: Sequence[tuple[float, float]]) -> str:
        """A path of dots."""
        return "".join(f"M{self.x(x)} {self.y(y)}h0" for x, y in places)

    @property
    def stages(self) -> list[tuple[float, float, str, str]]:
        """Where stages begin, how wide they are, their names and colours."""
        ends = [*(x for x, _, _ in self.axis.stages[1:]), self.axis.right]
        return [
            (x, self.axis.left + end - x, name, "" if colour is None else colour_of(colour))
            for (x, name, colour), end in zip(self.axis.stages, ends, strict=False)
        ]


def colour_of(number: int) -> str:
    """A colour of the palette, which begins again at its end."""
    return f"var(--t{number % NUM_COLOURS})"


def rate_ticks(values: Sequence[float]) -> list[float]:
    """The smallest window of quarters that holds the rates, and round ticks in it."""
    low = min(math.floor(4 * min(values, default=0.0)) / 4, 0.75)
    high = max(math.ceil(4 * max(values, default=1.0)) / 4, low + 0.25)
    return round_ticks([low, high], 5, (1, 2.5, 5, 10))


def round_ticks(values: Sequence[float], most: int = 3, steps: Sequence[float] = (1, 2, 2.5, 5, 10)) -> list[float]:
    """Numbers at about ``most`` round steps that hold all values."""
    low, high = min(values), max(values)
    if math.isclose(low, high, rel_tol=1e-6, abs_tol=1e-12):
        low, high = low - (abs(low) / 10 or 0.5), high + (abs(high) / 10 or 0.5)
    return [float(tick) for tick in MaxNLocator(most, steps=steps).tick_values(low, high)]


def epoch_ticks(total: int, most: int, *, with_first: bool) -> list[tuple[float, str]]:
    """About ``most`` epoch numbers in the middle of their epochs: all of them, or the multiples of a round step.

    with_first: the first one, too, where it does not crowd.
    """
    ticks = MaxNLocator(most, steps=(1, 2, 5, 10), integer=True, min_n_ticks=1).tick_values(0, total)
    numbers = [int(tick) for tick in ticks if 1 <= tick <= total]
    first = [1] if with_first and numbers[0] > 2 else []
    return [(number - 0.5, str(number)) for number in (*first, *numbers)]


# -------------------------------------------------------------------------------------------------- the success matrix


def cell_kind(matrix: SuccessMatrix, row: int, task: int) -> str:
    """Classes of a cell of the heat map: a task's own row is framed, cells of tasks learnt before carry a dot."""
    rate = matrix.success(row, task)
    kinds = ["strong"] if rate > _STRONG else ["middle"] if rate > _MIDDLE else []
    if task in matrix.learnt_tasks and row >= (own := matrix.own_row(task)):
        kinds.append("own" if row == own else "kept")
    return " ".join(kinds)


def interval(matrix: SuccessMatrix, row: int, task: int) -> tuple[float, float]:
    """Wilson interval of one cell."""
    return wilson_interval(matrix.success(row, task), float(matrix.episodes_RK[row, matrix.column(task)]))


def rate_title(matrix: SuccessMatrix, row: int, task: int) -> str:
    """What hovering over one success rate tells."""
    low, high = interval(matrix, row, task)
    episodes = int(matrix.episodes_RK[row, matrix.column(task)])
    rate = percent(matrix.success(row, task))
    return f"{rate} of {episodes} episodes (95%: {percent(low)} to {percent(high)})"


@dataclass(frozen=True)
class Bar:
    """One bar with its interval; ``mark`` is drawn as a tick across it (the base model)."""

    kind: str
    value: float
    low: float
    high: float
    title: str
    mark: float | None = None


def before_and_after(matrix: SuccessMatrix, task: int) -> list[Bar]:
    """Success before and after training, as far as both were evaluated."""
    shown = [(0, "base")] if matrix.has_base else []
    shown += [(matrix.last_row, "end")] if matrix.last_row > 0 or not matrix.has_base else []
    return [
        Bar(kind, matrix.success(row, task), *interval(matrix, row, task), rate_title(matrix, row, task))
        for row, kind in shown
    ]


def final_bar(matrix: SuccessMatrix, task: int, label: str) -> Bar:
    """One method's success on a task at the end."""
    last = matrix.last_row
    rate, (low, high) = matrix.success(last, task), interval(matrix, last, task)
    base = matrix.success(0, task) if matrix.has_base else None
    title = f"{label}: {percent(rate)} ({percent(low)} to {percent(high)})"
    return Bar("", rate, low, high, title if base is None else f"{title}, base model {percent(base)}", base)


def learnt_places(matrix: SuccessMatrix) -> dict[int, str]:
    """1st, 2nd, ... for the tasks that were learnt."""
    return {task: ordinal(number) for number, task in enumerate(matrix.learnt_tasks, start=1)}


def scale_ticks(left: float, right: float) -> list[tuple[float, str]]:
    """Round LoRA scales, eight at most."""
    return [(tick, f"{tick:g}") for tick in round_ticks([left, right], 8, (2.5, 5, 10)) if left <= tick <= right]
