"""Where shapes of a plot lie: percentages of its frame, so that plots fit any screen. The template draws them.

Drawn by hand, as no library beat it: plotly's runtime makes every page 4.8 MB, Bokeh's 3.9 MB, Vega-Lite's 0.9 MB (and
180 MB to install), and all three need scripts, which the page's policy forbids; matplotlib's SVG takes 25 kB a plot,
150 of them in a study, and follows neither the window's width nor its colours.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from rlinf.reporting.metrics import SuccessMatrix, wilson_interval
from rlinf.reporting.report.names import ordinal, percent, row_name, task_title

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


@dataclass(frozen=True)
class Axis:
    """Ends of the x axis, what is written below at which places, and where stages begin: (x, name, colour or None)."""

    left: float
    right: float
    ticks: Sequence[tuple[float, str]]
    title: str
    stages: Sequence[tuple[float, str, int | None]] = ()


@dataclass(frozen=True)
class Shapes:
    """One curve as the template draws it: paths in percent of the frame; ``titles`` are (x, y, text)."""

    style: str
    fill: str
    lines: list[str]
    bands: list[str]
    dots: str
    rings: str
    titles: list[tuple[str, str, str]]


@dataclass(frozen=True)
class Plot:
    """Everything in a plot's frame, in percent from its left and upper edge."""

    grid: list[tuple[str, str]]
    ticks: list[tuple[str, str]]
    stages: list[tuple[str, str, str, str]]
    levels: list[tuple[str, str]]
    curves: list[Shapes]
    title: str
    legend: list[tuple[str, str]] = field(default_factory=list)


def plot(
    curves: Sequence[Curve],
    axis: Axis,
    y_ticks: Sequence[float],
    *,
    show: Callable[[float], str] = percent,
    levels: Sequence[tuple[str, float]] = (),
) -> Plot:
    """Curves in a frame from the first to the last of ``y_ticks``; ``levels`` are dashed horizontal lines."""
    low, high = y_ticks[0], y_ticks[-1]

    def x_of(x: float) -> str:
        return f"{100 * (x - axis.left) / (axis.right - axis.left):.2f}"

    def y_of(y: float) -> str:
        return f"{100 * (high - min(max(y, low), high)) / (high - low):.2f}"

    def path(places: Sequence[tuple[float, float]], *, joined: bool = True) -> str:
        pairs = [f"{x_of(x)} {y_of(y)}" for x, y in places]
        return ("M" + "L".join(pairs) if joined else "".join(f"M{pair}h0" for pair in pairs)) if pairs else ""

    def shapes(curve: Curve) -> Shapes:
        pieces = [[point for point in piece if math.isfinite(point.y)] for piece in curve.pieces]
        points = [point for piece in pieces for point in piece]
        dotted = [point for piece in pieces if len(piece) <= _MAX_DOTS for point in piece]
        bands = [piece for piece in pieces if len(piece) > 1 and any(point.low != point.high for point in piece)]
        return Shapes(
            style=colour_style(curve.colour),
            fill=f"var(--t{curve.colour % NUM_COLOURS})",
            lines=[path([(point.x, point.y) for point in piece]) for piece in pieces if piece],
            bands=[
                path([(one.x, one.high) for one in piece] + [(one.x, one.low) for one in reversed(piece)]) + "Z"
                for piece in bands
            ],
            dots=path([(point.x, point.y) for point in dotted], joined=False),
            rings=path(curve.rings, joined=False) if points else "",
            titles=[(x_of(point.x), y_of(point.y), point.title) for point in points],
        )

    ends = [*(x for x, _, _ in axis.stages[1:]), axis.right]
    return Plot(
        grid=[(y_of(tick), show(tick)) for tick in y_ticks],
        ticks=[(x_of(x), text) for x, text in axis.ticks],
        stages=[
            (x_of(x), x_of(axis.left + end - x), name, "" if colour is None else f"var(--t{colour % NUM_COLOURS})")
            for (x, name, colour), end in zip(axis.stages, ends, strict=False)
        ],
        levels=[(y_of(level), name) for name, level in levels],
        curves=[shapes(curve) for curve in curves],
        title=axis.title,
        legend=[(curve.label, colour_style(curve.colour)) for curve in curves],
    )


def colour_style(colour: int) -> str:
    """Stroke of the ``colour``-th method, the same in every plot of a page."""
    dash = _DASHES[(colour // NUM_COLOURS) % len(_DASHES)]
    return f"stroke:var(--t{colour % NUM_COLOURS})" + (f";stroke-dasharray:{dash}" if dash else "")


def rate_ticks(values: Sequence[float]) -> list[float]:
    """The smallest window of quarters that holds the rates, and round ticks in it."""
    lowest, highest = min(values, default=0.0), max(values, default=1.0)
    low = max(quarter for quarter in (0.0, 0.25, 0.5, 0.75) if quarter <= max(lowest, 0.0))
    high = min(quarter for quarter in (0.25, 0.5, 0.75, 1.0) if quarter >= min(highest, 1.0))
    if high <= low:  # all values at one quarter
        low, high = (low - 0.25, high) if low > 0 else (low, low + 0.25)
    step = {1.0: 0.25, 0.75: 0.25, 0.5: 0.1, 0.25: 0.05}[round(high - low, 2)]
    return [low + step * number for number in range(round((high - low) / step) + 1)]


def round_ticks(values: Sequence[float]) -> list[float]:
    """About three steps of a round size that hold all finite values."""
    finite = [value for value in values if math.isfinite(value)]
    low, high = min(finite, default=0.0), max(finite, default=1.0)
    if high - low < 1e-12 + 1e-6 * abs(high):
        low, high = low - (abs(low) * 0.1 or 0.5), high + (abs(high) * 0.1 or 0.5)
    step = _round_step((high - low) / 3)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [step * number for number in range(first, last + 1)]


def _round_step(raw: float) -> float:
    magnitude = 10.0 ** math.floor(math.log10(raw))
    return next(factor * magnitude for factor in (1, 2, 2.5, 5, 10) if factor * magnitude >= raw * 0.999)


def epoch_ticks(total: int, most: int, *, with_first: bool) -> list[tuple[float, str]]:
    """About ``most`` epoch numbers in the middle of their epochs: all of them, or the multiples of a round step.

    with_first: the first one, too, where it does not crowd.
    """
    step = next(step for step in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 10**9) if total / step <= most)
    numbers = ([1] if step > 2 and with_first else []) + list(range(step, total + 1, step))
    return [(number - 0.5, str(number)) for number in numbers]


# -------------------------------------------------------------------------------------------------- the success matrix


@dataclass(frozen=True)
class HeatCell:
    """One cell of a heat map: its class, what hovering tells, and the rate."""

    kind: str
    title: str
    rate: float


def heat_rows(matrix: SuccessMatrix, languages: Mapping[int, str]) -> list[tuple[str, list[HeatCell], float]]:
    """By row its name, cells and mean: a task's own row is framed, cells of tasks learnt before carry a dot."""
    rows = []
    for row, stage in enumerate(matrix.stages):
        cells = [
            HeatCell(
                _kind(matrix, row, task),
                f"{task_title(task, languages)}\n{row_name(stage)}: {rate_title(matrix, row, task)}",
                matrix.success(row, task),
            )
            for task in matrix.tasks
        ]
        rows.append((row_name(stage), cells, float(matrix.success_RK[row].mean())))
    return rows


def _kind(matrix: SuccessMatrix, row: int, task: int) -> str:
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
    last = len(matrix.stages) - 1
    shown = [(0, "base")] if matrix.has_base else []
    shown += [(last, "end")] if last > 0 or not matrix.has_base else []
    return [
        Bar(kind, matrix.success(row, task), *interval(matrix, row, task), rate_title(matrix, row, task))
        for row, kind in shown
    ]


def final_bar(matrix: SuccessMatrix, task: int, label: str) -> Bar:
    """One method's success on a task at the end."""
    last = len(matrix.stages) - 1
    rate, (low, high) = matrix.success(last, task), interval(matrix, last, task)
    base = matrix.success(0, task) if matrix.has_base else None
    title = f"{label}: {percent(rate)} ({percent(low)} to {percent(high)})"
    return Bar("", rate, low, high, title if base is None else f"{title}, base model {percent(base)}", base)


def learnt_places(matrix: SuccessMatrix) -> dict[int, str]:
    """1st, 2nd, ... for the tasks that were learnt."""
    return {task: ordinal(number) for number, task in enumerate(matrix.learnt_tasks, start=1)}


def scale_ticks(left: float, right: float) -> list[tuple[float, str]]:
    """Round LoRA scales, eight at most."""
    step = next(step for step in (0.25, 0.5, 1.0, 5.0, 10.0**6) if (right - left) / step <= 8)
    return [(step * n, f"{step * n:g}") for n in range(math.ceil(left / step), math.floor(right / step) + 1)]
