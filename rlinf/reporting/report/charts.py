"""Charts as HTML and SVG fragments: sizes are relative, colours CSS variables, so that they fit any screen."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from rlinf.custom.metrics import SuccessMatrix, wilson_interval
from rlinf.reporting.report.words import ordinal, percent, task_ranges, task_title

NUM_COLOURS = 8
# Success rates from which a cell's text changes its ink, to stay readable: "middle" does so on dark pages only.
_MIDDLE, _STRONG = 0.55, 0.7


@dataclass(frozen=True)
class Segment:
    """One training stage in a timeline.

    ``points`` are (epoch from 1 on, value), ``marks`` (epoch from 0 on, value) drawn as rings: what was measured
    between epochs. ``colour`` is an index into the palette, ``width`` the stage's number of epochs.
    """

    label: str
    colour: int
    points: Sequence[tuple[float, float]]
    width: int
    marks: Sequence[tuple[float, float]] = ()


def row_names(matrix: SuccessMatrix) -> list[str]:
    """A name for each row of the matrix."""
    return [
        "base model" if not stage else "after " + ("task " if len(stage) == 1 else "tasks ") + task_ranges(stage)
        for stage in matrix.stages
    ]


def heat_map(matrix: SuccessMatrix, languages: Mapping[int, str]) -> str:
    """The success matrix as a table: a cell's own row is framed, cells of tasks learnt before carry a dot."""
    place = {task: number for number, task in enumerate(matrix.learnt_tasks, start=1)}
    head = ["<th></th>"]
    for task in matrix.tasks:
        order = f"<small>{ordinal(place[task])}</small>" if task in place else "<small></small>"
        kind = ' class="learnt"' if task in place else ""
        head.append(f'<th{kind} scope="col" title="{escape(task_title(task, languages))}">{order}{task}</th>')
    head.append('<th class="mean" scope="col"><small></small>mean</th>')
    body = []
    for row, name in enumerate(row_names(matrix)):
        cells = [f'<th scope="row">{escape(name)}</th>']
        for column, task in enumerate(matrix.tasks):
            cells.append(_cell(matrix, row, column, row_name=name, title=task_title(task, languages)))
        mean = float(matrix.success_RK[row].mean())
        cells.append(f'<td class="mean">{percent(mean)}</td>')
        body.append(f"<tr>{''.join(cells)}</tr>")
    return (
        f'<div class="scroll"><table class="heat"><thead><tr>{"".join(head)}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def _cell(matrix: SuccessMatrix, row: int, column: int, *, row_name: str, title: str) -> str:
    rate, episodes = float(matrix.success_RK[row, column]), int(matrix.episodes_RK[row, column])
    task = matrix.tasks[column]
    own = matrix.own_row(task) if task in matrix.learnt_tasks else None
    classes = ["strong"] if rate > _STRONG else ["middle"] if rate > _MIDDLE else []
    if own is not None and row >= own:
        classes.append("own" if row == own else "kept")
    low, high = wilson_interval(rate, episodes)
    hover = f"{title}\n{row_name}: {percent(rate)} of {episodes} episodes (95%: {percent(low)} to {percent(high)})"
    attribute = f' class="{" ".join(classes)}"' if classes else ""
    return f'<td{attribute} style="--v:{rate:.3f}" title="{escape(hover)}">{100 * rate:.0f}</td>'


def task_bars(matrix: SuccessMatrix, languages: Mapping[int, str]) -> str:
    """Success before and after training per task, learnt tasks first, each with its Wilson interval."""
    learnt = list(matrix.learnt_tasks)
    last = len(matrix.stages) - 1
    rows = []
    for task in [*learnt, *matrix.held_out_tasks]:
        tag = f'<span class="tag">learnt {ordinal(learnt.index(task) + 1)}</span>' if task in learnt else ""
        words = f'<br><span class="words">{escape(languages[task])}</span>' if task in languages else ""
        shown = [(0, "base")] if matrix.has_base else []
        shown += [(last, "end")] if last > 0 or not matrix.has_base else []
        bars = "".join(_bar(matrix, row, task, kind, only=len(shown) == 1) for row, kind in shown)
        values = [percent(matrix.success(row, task)) for row, _ in shown]
        text = f"<span>{values[0]} →</span> <b>{values[1]}</b>" if len(values) == 2 else f"<b>{values[0]}</b>"
        rows.append(
            f'<div class="task-row"><div class="label"><b>Task {task}</b>{tag}{words}</div>'
            f'<div class="track">{bars}</div><div class="values">{text}</div></div>'
        )
    brief = "" if set(matrix.tasks) & set(languages) else " brief"
    return f'<div class="bars{brief}">{"".join(rows)}</div>'


def _bar(matrix: SuccessMatrix, row: int, task: int, kind: str, *, only: bool) -> str:
    rate, episodes = matrix.success(row, task), int(matrix.episodes_RK[row, matrix.column(task)])
    low, high = wilson_interval(rate, episodes)
    extra = " only" if only else ""
    top = "0.75rem" if only else "0.4rem" if kind == "base" else "1.1rem"
    hover = escape(f"{percent(rate)} of {episodes} episodes (95%: {percent(low)} to {percent(high)})")
    return (
        f'<div class="bar {kind}{extra}" style="width:{100 * rate:.1f}%" title="{hover}"></div>'
        f'<div class="whisker" style="left:{100 * low:.1f}%;width:{100 * (high - low):.1f}%;top:{top}"></div>'
    )


def timeline(
    segments: Sequence[Segment],
    *,
    show: Callable[[float], str],
    limits: tuple[float, float] | None = None,
    is_wide: bool = False,
) -> str:
    """Training stages one after another on one time axis, each in its colour.

    ``show`` writes a value, ``limits`` fixes the y axis (otherwise it fits the finite values). A wide plot has room
    for the stages' names and more epoch numbers.
    """
    finite = [y for segment in segments for _, y in segment.points if math.isfinite(y)]
    low, high, ticks = _axis(finite, limits)
    total = max(1, sum(segment.width for segment in segments))

    def at(x: float, y: float) -> tuple[float, float]:
        clamped = min(max(y, low), high)
        return 100 * x / total, 100 * (high - clamped) / (high - low)

    shapes, labels = [], []
    for tick in ticks:
        y = at(0, tick)[1]
        shapes.append(f'<line class="grid" x1="0" x2="100" y1="{y:.2f}" y2="{y:.2f}"/>')
        labels.append(f'<span class="y" style="top:{y:.2f}%">{escape(show(tick))}</span>')
    start = 0
    for number, segment in enumerate(segments):
        left, right = 100 * start / total, 100 * (start + segment.width) / total
        if number:
            shapes.append(f'<line class="split" x1="{left:.2f}" x2="{left:.2f}" y1="0" y2="100"/>')
        colour = f"var(--t{segment.colour % NUM_COLOURS})"
        if is_wide:
            labels.append(
                f'<span class="stage" style="left:{left:.2f}%;max-width:{right - left:.2f}%;color:{colour}">'
                f"{escape(segment.label)}</span>"
            )
        shapes.append(_curve(segment, start, colour, at, show, right - left))
        start += segment.width
    ticks_x = _whole_ticks(total, 10 if is_wide else 5)
    labels += [f'<span class="x" style="left:{100 * (x - 0.5) / total:.2f}%">{x}</span>' for x in ticks_x]
    labels.append('<span class="axis">epoch</span>')
    return (
        '<div class="plot"><svg viewBox="0 0 100 100" preserveAspectRatio="none" role="img">'
        f"{''.join(shapes)}</svg>{''.join(labels)}</div>"
    )


def _curve(
    segment: Segment,
    start: float,
    colour: str,
    at: Callable[[float, float], tuple[float, float]],
    show: Callable[[float], str],
    width: float,
) -> str:
    places = [(x, y, *at(start + x - 0.5, y)) for x, y in segment.points if math.isfinite(y)]
    if not places:
        return ""
    line = "M" + "L".join(f"{px:.2f} {py:.2f}" for _, _, px, py in places)
    dots = "".join(f"M{px:.2f} {py:.2f}h0" for _, _, px, py in places)
    reach = width / max(1, segment.width)
    hits = "".join(
        f'<rect class="hit" x="{px - reach / 2:.2f}" y="0" width="{reach:.2f}" height="100">'
        f"<title>{escape(f'{segment.label}, epoch {x:g}: {show(y)}')}</title></rect>"
        for x, y, px, _ in places
    )
    style = f'style="stroke:{colour}"'
    rings = "".join("M{:.2f} {:.2f}h0".format(*at(start + x, y)) for x, y in segment.marks)
    shapes = f'<path class="line" {style} d="{line}"/><path class="dots" {style} d="{dots}"/>'
    if rings:
        shapes += f'<path class="ring" {style} d="{rings}"/><path class="hole" d="{rings}"/>'
    return shapes + hits


def _axis(values: Sequence[float], limits: tuple[float, float] | None) -> tuple[float, float, list[float]]:
    """Lower and upper end and the ticks in between, at round numbers."""
    low, high = limits or (min(values, default=0.0), max(values, default=1.0))
    if limits is None and high - low < 1e-12 + 1e-6 * abs(high):
        low, high = low - (abs(low) * 0.1 or 0.5), high + (abs(high) * 0.1 or 0.5)
    raw = (high - low) / 3
    magnitude = 10 ** math.floor(math.log10(raw))
    step = next(factor * magnitude for factor in (1, 2, 2.5, 5, 10) if factor * magnitude >= raw * 0.999)
    if limits is not None:
        step = (high - low) / 4
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = [step * number for number in range(first, last + 1)]
    return ticks[0], ticks[-1], ticks


def _whole_ticks(total: int, most: int) -> list[int]:
    """About ``most`` epoch numbers: all of them, or the multiples of a round step (and 1 where it does not crowd)."""
    step = next(step for step in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 10**9) if total / step <= most)
    return ([1] if step > 2 else []) + list(range(step, total + 1, step))
