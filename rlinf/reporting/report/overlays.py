"""Charts of several methods in one frame: curves with bands, and grouped bars; HTML and SVG like in ``charts``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from rlinf.reporting.report.charts import NUM_COLOURS
from rlinf.reporting.report.words import percent

_DASHES = ("", "5 3", "1.5 3")  # the palette again, told apart by dashes


@dataclass(frozen=True)
class Spot:
    """A point of a curve with the band around it; all rates in 0..1, ``x`` in the plot's unit."""

    x: float
    y: float
    low: float
    high: float


@dataclass(frozen=True)
class Series:
    """One curve: ``colour`` indexes the palette (beyond its end curves are dashed), ``pieces`` are drawn unjoined."""

    label: str
    colour: int
    pieces: tuple[tuple[Spot, ...], ...]


@dataclass(frozen=True)
class Frame:
    """The x axis of a plot: its ends, what is written below at which places, and where stages begin."""

    left: float
    right: float
    ticks: tuple[tuple[float, str], ...]
    title: str
    stages: tuple[tuple[float, str], ...] = ()
    levels: tuple[tuple[str, float], ...] = ()  # dashed horizontal lines


def colour_style(colour: int) -> str:
    """Stroke of the ``colour``-th method, the same in every chart of a page."""
    dash = _DASHES[(colour // NUM_COLOURS) % len(_DASHES)]
    return f"stroke:var(--t{colour % NUM_COLOURS})" + (f";stroke-dasharray:{dash}" if dash else "")


def legend(names: Sequence[tuple[str, int]], *extra: str) -> str:
    """Names beside samples of their lines."""
    items = [
        f'<span><svg class="key" viewBox="0 0 24 8"><path style="{colour_style(colour)}" d="M1 4H23"/></svg>'
        f"{escape(name)}</span>"
        for name, colour in names
    ]
    return f'<div class="legend">{"".join([*items, *extra])}</div>'


def curves(series: Sequence[Series], frame: Frame) -> str:
    """Success over something, a band around each curve; the y axis is the window of quarters that the data need."""
    values = [value for one in series for piece in one.pieces for spot in piece for value in (spot.low, spot.high)]
    values += [level for _, level in frame.levels]
    low, high, ticks = _axis(values)
    span = frame.right - frame.left

    def at(x: float, y: float) -> tuple[float, float]:
        return 100 * (x - frame.left) / span, 100 * (high - min(max(y, low), high)) / (high - low)

    shapes, labels = [], []
    for tick in ticks:
        y = at(frame.left, tick)[1]
        shapes.append(f'<line class="grid" x1="0" x2="100" y1="{y:.2f}" y2="{y:.2f}"/>')
        labels.append(f'<span class="y" style="top:{y:.2f}%">{percent(tick)}</span>')
    for number, (x, name) in enumerate(frame.stages):
        left = at(x, low)[0]
        if number:
            shapes.append(f'<line class="split" x1="{left:.2f}" x2="{left:.2f}" y1="0" y2="100"/>')
        labels.append(f'<span class="stage" style="left:{left:.2f}%">{escape(name)}</span>')
    for name, level in frame.levels:
        y = at(frame.left, level)[1]
        shapes.append(f'<line class="level" x1="0" x2="100" y1="{y:.2f}" y2="{y:.2f}"/>')
        labels.append(f'<span class="level" style="top:{y:.2f}%">{escape(name)}</span>')
    places = [[[(spot, *at(spot.x, spot.y)) for spot in piece] for piece in one.pieces] for one in series]
    shapes += [
        _band([at(spot.x, spot.low) for spot in piece], [at(spot.x, spot.high) for spot in piece], one.colour)
        for one in series
        for piece in one.pieces
    ]
    for one, pieces in zip(series, places, strict=True):
        shapes += [_line(one, piece) for piece in pieces if piece]
    labels += [f'<span class="x" style="left:{at(x, low)[0]:.2f}%">{escape(text)}</span>' for x, text in frame.ticks]
    labels.append(f'<span class="axis">{escape(frame.title)}</span>')
    return (
        '<div class="plot over"><svg viewBox="0 0 100 100" preserveAspectRatio="none" role="img">'
        f"{''.join(shapes)}</svg>{''.join(labels)}</div>"
    )


def _axis(values: Sequence[float]) -> tuple[float, float, list[float]]:
    """The smallest window of quarters that holds the rates, and round ticks in it."""
    lowest, highest = min(values, default=0.0), max(values, default=1.0)
    low = max(quarter for quarter in (0.0, 0.25, 0.5, 0.75) if quarter <= max(lowest, 0.0))
    high = min(quarter for quarter in (0.25, 0.5, 0.75, 1.0) if quarter >= min(highest, 1.0))
    if high <= low:  # all values at one quarter
        low, high = (low - 0.25, high) if low > 0 else (low, low + 0.25)
    step = {1.0: 0.25, 0.75: 0.25, 0.5: 0.1, 0.25: 0.05}[round(high - low, 2)]
    return low, high, [low + step * number for number in range(round((high - low) / step) + 1)]


def _band(lower: Sequence[tuple[float, float]], upper: Sequence[tuple[float, float]], colour: int) -> str:
    if len(lower) < 2 or all(a == b for a, b in zip(lower, upper, strict=True)):
        return ""
    outline = "L".join(f"{x:.2f} {y:.2f}" for x, y in [*upper, *reversed(lower)])
    return f'<path class="band" style="fill:var(--t{colour % NUM_COLOURS})" d="M{outline}Z"/>'


def _line(one: Series, piece: Sequence[tuple[Spot, float, float]]) -> str:
    path = "M" + "L".join(f"{x:.2f} {y:.2f}" for _, x, y in piece)
    dots = "".join(f"M{x:.2f} {y:.2f}h0" for _, x, y in piece)
    shapes = f'<path class="line" style="{colour_style(one.colour)}" d="{path}"/>'
    if len(piece) <= 12:
        shapes += f'<path class="dots" style="stroke:var(--t{one.colour % NUM_COLOURS})" d="{dots}"/>'
    hits = "".join(
        f'<path class="hit-dot" d="M{x:.2f} {y:.2f}h0"><title>{escape(f"{one.label}: {percent(spot.y)}")}'
        f"{escape(f' ({percent(spot.low)} to {percent(spot.high)})')}</title></path>"
        for spot, x, y in piece
    )
    return shapes + hits


@dataclass(frozen=True)
class GroupBar:
    """One bar of a group: rates in 0..1; ``mark`` is drawn as a tick across the bar (the base model)."""

    label: str
    colour: int
    value: float
    low: float
    high: float
    mark: float | None = None


def grouped_bars(groups: Sequence[tuple[str, str, Sequence[GroupBar]]]) -> str:
    """One row per group (title, further words), a bar for each method."""
    rows = []
    for title, words, bars in groups:
        lines = "".join(_group_bar(bar) for bar in bars)
        text = f'<br><span class="words">{escape(words)}</span>' if words else ""
        rows.append(f'<div class="group"><div class="label"><b>{escape(title)}</b>{text}</div><div>{lines}</div></div>')
    return f'<div class="groups">{"".join(rows)}</div>'


def _group_bar(bar: GroupBar) -> str:
    hover = f"{bar.label}: {percent(bar.value)} ({percent(bar.low)} to {percent(bar.high)})"
    if bar.mark is not None:
        hover += f", base model {percent(bar.mark)}"
    mark = "" if bar.mark is None else f'<i class="base-mark" style="left:{100 * bar.mark:.1f}%"></i>'
    fade = "" if bar.colour < NUM_COLOURS else " faded"
    style = f"width:{100 * bar.value:.1f}%;background:var(--t{bar.colour % NUM_COLOURS})"
    return (
        f'<div class="slot" title="{escape(hover)}"><div class="track">'
        f'<div class="bar{fade}" style="{style}"></div>'
        f'<div class="whisker" style="left:{100 * bar.low:.1f}%;width:{100 * (bar.high - bar.low):.1f}%"></div>{mark}'
        f'</div><span class="value">{percent(bar.value)}</span></div>'
    )
