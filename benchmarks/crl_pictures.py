"""Pictures of the results table: every row at a glance, what is learnt against what is forgotten, how far policies went
from their base, success matrices, and training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.text import Text

from benchmarks.crl_rows import ROWS
from benchmarks.crl_shown import Line, by_tasks, standard_error
from rlinf.reporting.report.columns import COLUMNS

DPI = 120
METHOD, CONTROL, SEQUENTIAL, QUIET = "#0f766e", "#c2410c", "#111827", "#9ca3af"
LEFT_OUT_OF_TRADE_OFF = ("multitask",)  # all tasks at once: nothing to forget
NEAR_BASE = -0.8  # decimal logarithm of a KL; most policies are nearer to their base, and crowded
PANELS_A_ROW = 3
TRADE_OFF_Y = (-2, 102)

AT_A_GLANCE = (
    ("avg", "base", "AVG: learnt tasks at the end, %"),
    ("nbt", None, "NBT: forgotten, points"),
    ("zero_shot", "zero_shot", "ZS: held-out tasks at the end, %"),
)
"""Metrics, what they are compared with, and how they are called."""

Point = tuple[float, float, str, str]
"""Its place, its name and its colour."""


def draw(folder: Path, suite: str, lines: Sequence[Line]) -> None:
    """Write ``glance.png``, ``tradeoff.png``, ``matrices.png``, ``training.png`` and, where what training changed was
    looked at, ``distance.png``; lines: of one suite."""
    folder.mkdir(parents=True, exist_ok=True)
    sampled = [line for line in lines if line.temperature != 0]
    if not sampled:
        return
    figures = {
        "glance": glance(suite, lines),
        "tradeoff": trade_off(suite, lines),
        "matrices": matrices(sampled),
        "training": training(sampled),
    }
    diagnosed = [one for line in sampled if not ROWS[line.row].diagnosed and (one := line.looked_at)]
    if looked_at := [line for line in diagnosed if _far(line)]:
        figures["distance"] = distance(suite, looked_at)
    for name, figure in figures.items():
        figure.savefig(folder / f"{name}.png", dpi=DPI)


def glance(suite: str, lines: Sequence[Line]) -> Figure:
    """Every row with all its seeds: success on the learnt tasks, what was forgotten, success on the others."""
    rows = list(dict.fromkeys(line.row for line in lines))
    figure = Figure(figsize=(11, 0.34 * len(rows) + 1.3), layout="constrained")
    panels = figure.subplots(1, len(AT_A_GLANCE), sharey=True)
    for axes, (key, before, title) in zip(panels, AT_A_GLANCE, strict=True):
        for line in lines:
            _glance_at(axes, line, key, before, height=rows.index(line.row))
        if before is None:
            axes.axvline(0, color=QUIET, linestyle="--", linewidth=1)
        axes.set_title(title, fontsize=10)
        _plain(axes)
    seeds = {line.row: len(line.runs.seeds) for line in lines}
    panels[0].set_yticks(range(len(rows)), [f"{ROWS[row].title} ({seeds[row]})" for row in rows], fontsize=9)
    for row, label in zip(rows, panels[0].get_yticklabels(), strict=True):
        label.set_color(_colour(row))
    panels[0].set_ylim(len(rows) - 0.4, -0.6)
    figure.suptitle(
        f"{suite}, in brackets the number of seeds. Filled: sampled; hollow: greedy; strokes: before; "
        "small: single seeds\nbars: standard error over seeds, or 95 % interval of one seed's episodes",
        fontsize=10,
    )
    return figure


def _glance_at(axes: Any, line: Line, key: str, before: str | None, *, height: float) -> None:
    """A row's mean in percent with its error bar and seeds, sampled a little above greedy."""
    values = [100 * value for value in line.values(key)]
    if not values:
        return
    colour, marker = _colour(line.row), "s" if is_control(line.row) else "o"
    is_greedy = line.temperature == 0
    y = height + (0.22 if is_greedy else -0.12)
    mean = float(np.mean(values))
    if starts := _before(line, before):
        axes.plot(100 * float(np.mean(starts)), y, "|", color="gray" if is_greedy else "black", markersize=9)
    axes.errorbar(mean, y, xerr=_reach(line, key), color=colour, linewidth=1.2, alpha=0.35 if is_greedy else 0.8)
    if len(values) > 1:
        axes.plot(values, [y] * len(values), ".", color=colour, markersize=4, alpha=0.35)
    face = "white" if is_greedy else colour
    axes.plot(mean, y, marker, markersize=4 if is_greedy else 6, color=colour, markerfacecolor=face)


def _before(line: Line, key: str | None) -> list[float]:
    """What each seed had before it learnt; ``zero_shot``: on held-out tasks, otherwise the metric ``key``."""
    if key == "zero_shot":
        pairs = zip(line.values("zero_shot"), line.values("zero_shot_change"), strict=True)
        return [after - change for after, change in pairs]
    return line.values(key) if key else []


def trade_off(suite: str, lines: Sequence[Line]) -> Figure:
    """AVG against NBT, a panel for each way of choosing actions; what is best lies at the upper left."""
    temperatures = sorted({line.temperature for line in lines}, reverse=True)
    figure = Figure(figsize=(5.6 * len(temperatures), 4.6), layout="constrained")
    panels = figure.subplots(1, len(temperatures), sharex=True, sharey=True, squeeze=False)[0]
    named = []
    for axes, temperature in zip(panels, temperatures, strict=True):
        shown = [line for line in lines if line.temperature == temperature and line.row not in LEFT_OUT_OF_TRADE_OFF]
        points = [
            _point(axes, line, "avg", x=100 * float(np.mean(line.values("nbt"))), reach_x=_reach(line, "nbt"))
            for line in shown
            if line.values("avg") and line.values("nbt")
        ]
        for is_pretrained, name in ((True, "base model"), (False, "not pretrained")):
            starts = [value for line in shown if is_pretrained == _is_pretrained(line) for value in line.values("base")]
            if starts:
                _base(axes, 100 * float(np.mean(starts)), name, is_pretrained=is_pretrained)
        axes.set_ylim(*TRADE_OFF_Y)
        named.append((axes, points))
        axes.set_title(shown[0].way if shown else "", fontsize=10)
        axes.set_xlabel("NBT: forgotten, points (left is better)")
        _plain(axes)
    panels[0].set_ylabel("AVG: success on the learnt tasks at the end, %")
    legend = "squares: controls; bars: standard error over seeds, faint ones 95 % interval of one seed's episodes"
    figure.suptitle(f"{suite}: learnt against forgotten ({legend})", fontsize=10)
    low, high = panels[0].get_xlim()  # the panels share it
    column = low + 0.55 * (high - low)
    for axes, points in named:
        place_names(axes, points, crowd_ends=column, column=column)
    return figure


def _is_pretrained(line: Line) -> bool:
    return ROWS[line.row].needs != "scratch"


def _base(axes: Any, level: float, name: str, *, is_pretrained: bool) -> None:
    """A line at what rows start from, in percent; its name stands left above it, or right below it without
    pretraining, as the two may lie close together."""
    axes.axhline(level, color=QUIET, linestyle="--" if is_pretrained else ":", linewidth=1)
    x, ha, va = (0.01, "left", "bottom") if is_pretrained else (0.99, "right", "top")
    axes.annotate(name, (x, level), xycoords=("axes fraction", "data"), ha=ha, va=va, color=QUIET, fontsize=8)


def distance(suite: str, lines: Sequence[Line]) -> Figure:
    """What happened to held-out tasks against how far the policy went from its base model on them."""
    figure = Figure(figsize=(8.4, 5.2), layout="constrained")
    axes = figure.subplots()
    points = [
        _point(axes, line, "zero_shot_change", x=float(np.log10(_far(line))))
        for line in lines
        if line.values("zero_shot_change")
    ]
    axes.axhline(0, color=QUIET, linestyle="--", linewidth=1)
    low, high = axes.get_xlim()
    axes.set_xlim(low - 0.4 * (high - low), high)
    axes.margins(y=0.15)
    powers = range(int(np.ceil(low)), int(np.ceil(high)))
    axes.set_xticks(list(powers), [f"{10.0**power:g}" for power in powers])
    axes.set_xlabel("KL from the base model on held-out tasks after the last task, nats a token (logarithmic)")
    axes.set_ylabel("change of success on held-out tasks, points")
    axes.set_title(f"{suite}, {lines[0].way}: how far a policy went, and what is left of what it was not trained on",
                   fontsize=10)  # fmt: skip
    _plain(axes)
    place_names(axes, points, crowd_ends=NEAR_BASE, column=low - 0.39 * (high - low))
    return figure


def _far(line: Line) -> float:
    """KL from the base model on held-out tasks, mean of the seeds that were looked at there; 0: none was."""
    learnt = line.runs.matrices[0].learnt_tasks
    far = [by_tasks([one], "kl", learnt)[1] for one in line.diagnoses]
    return float(np.mean([one for one in far if not np.isnan(one)] or [0.0]))


def _point(
    axes: Any, line: Line, key: str, *, x: float, reach_x: list[list[float]] | None = None
) -> Point:
    """Draw a row's mean of the metric ``key`` at ``x``, with error bars."""
    values = line.values(key)
    y = 100 * float(np.mean(values))
    colour = _colour(line.row)
    alpha = 0.5 if len(values) > 1 else 0.2
    axes.errorbar(x, y, xerr=reach_x, yerr=_reach(line, key), color=colour, linewidth=1, alpha=alpha)
    axes.plot(x, y, marker="s" if is_control(line.row) else "o", markersize=6, color=colour)
    return x, y, line.title, colour


def _reach(line: Line, key: str) -> list[list[float]]:
    """How far an error bar reaches below and above, in points: a standard error over seeds, or the interval of a single
    seed's episodes."""
    values = line.values(key)
    if len(values) > 1:
        return [[100 * standard_error(values)]] * 2
    cell = line.runs.cell(next(column for column in COLUMNS if column.key == key))
    assert cell is not None
    assert cell.low is not None
    assert cell.high is not None
    return [[100 * (cell.value - cell.low)], [100 * (cell.high - cell.value)]]


def place_names(axes: Any, points: Sequence[Point], *, crowd_ends: float, column: float) -> None:
    """Names of points to the right of ``crowd_ends`` stand to their left, as high as no other name or point is. The
    others lie close together: their names stand in a column that begins at ``column``, from the highest point down,
    with lines."""
    gap = 0.042 * float(np.ptp(axes.get_ylim()))
    crowd = sorted((point for point in points if point[0] <= crowd_ends), key=lambda point: (-point[1], point[0]))
    height = float(np.mean([point[1] for point in crowd] or [0.0])) + 0.5 * gap * len(crowd)
    others = sorted((point for point in points if point[0] > crowd_ends), key=lambda point: (-point[1], point[0]))
    nearest = 1 if crowd and column < crowd[0][0] else 0  # the end of a name that its line begins at
    if nearest == 0 and others:  # the column ends above them
        height = max(height, others[0][1] + gap * (len(crowd) + 0.7))
    placed: list[Text] = []
    for index, (x, y, name, colour) in enumerate(crowd):
        line = {"arrowstyle": "-", "color": colour, "alpha": 0.35, "linewidth": 0.8, "relpos": (nearest, 0.5),
                "shrinkA": 0}  # fmt: skip
        place = (column, height - index * gap)
        placed.append(axes.annotate(name, (x, y), xytext=place, va="center", fontsize=8, color=colour, arrowprops=line,
                                    bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5}))  # fmt: skip
    axes.figure.draw_without_rendering()  # lays out the figure, so that extents are known
    side = 0.008 * float(np.ptp(axes.get_xlim()))
    markers = axes.transData.transform([point[:2] for point in others]) if others else []
    for x, y, name, colour in others:
        text = axes.text(x - side, y + 0.3 * gap, name, ha="right", fontsize=8, color=colour)
        while any(_extent(text).overlaps(_extent(other)) for other in placed) or any(
            _extent(text).contains(*marker) for marker in markers
        ):
            text.set_y(text.get_position()[1] - 0.25 * gap)
        placed.append(text)


def _extent(text: Text) -> Any:
    """Of the words alone, in pixels: an annotation's own would have its line in it."""
    return Text.get_window_extent(text)


def _colour(row: str) -> str:
    return SEQUENTIAL if row == "sequential" else CONTROL if is_control(row) else METHOD


def is_control(row: str) -> bool:
    """It changes one of pretraining, LoRA and on-policy learning, or how far that goes, not the method."""
    return row.startswith(("sft", "full", "scratch", "sequential_many"))


def matrices(lines: Sequence[Line]) -> Figure:
    """Success of each row's policies (from above: the base, then after each task) on each task; a white line parts
    those that are learnt from those held out."""
    figure, panels = _panels(len(lines), height=2.5)
    for axes, line in zip(panels, lines, strict=False):
        pooled = line.runs.pooled
        order = [*pooled.learnt_tasks, *pooled.held_out_tasks]
        rates_RK = 100 * pooled.success_RK[:, [pooled.column(task) for task in order]]
        axes.imshow(rates_RK, cmap="YlGnBu", vmin=0, vmax=100, aspect="auto")
        for row, column in np.ndindex(*rates_RK.shape):
            ink = "white" if rates_RK[row, column] > 60 else "black"
            axes.text(column, row, f"{rates_RK[row, column]:.0f}", ha="center", va="center", fontsize=7, color=ink)
        axes.axvline(len(pooled.learnt_tasks) - 0.5, color="white", linewidth=3)
        names = ["base" if not stage else f"after {', '.join(map(str, stage))}" for stage in pooled.stages]
        axes.set_yticks(range(len(names)), names, fontsize=7)
        axes.set_xticks(range(len(order)), map(str, order), fontsize=7)
        axes.tick_params(length=0)
        axes.set_title(f"{line.title} ({_seeds(line)})", fontsize=9)
    figure.supxlabel(f"task; success in percent, {lines[0].way}", fontsize=9)
    return figure


def training(lines: Sequence[Line]) -> Figure:
    """Success of the rollouts that each row learnt from, epoch by epoch through the tasks; thin: single seeds."""
    shown = [line for line in lines if any(_rollouts(line))]
    figure, panels = _panels(max(1, len(shown)), height=2.1)
    for axes, line in zip(panels, shown, strict=False):
        for seed, curves in enumerate(_rollouts(line)):
            start = 0
            for curve in curves:
                epochs = [start + epoch for epoch, _ in curve]
                axes.plot(epochs, [100 * rate for _, rate in curve], color=METHOD, marker=".", linewidth=1.2,
                          alpha=1 / (1 + seed))  # fmt: skip
                start += len(curve)
                if seed == 0 and curve is not curves[-1]:
                    axes.axvline(start + 0.5, color=QUIET, linewidth=0.8)
        axes.set_ylim(0, 100)
        axes.set_title(f"{line.title} ({_seeds(line)})", fontsize=9)
        _plain(axes)
    figure.supxlabel("epoch; a line before each next task", fontsize=9)
    figure.supylabel("success of rollouts, %", fontsize=9)
    return figure


def _rollouts(line: Line) -> list[list[list[tuple[float, float]]]]:
    """Of each seed, of each task in the order of learning: (epoch from 1 on, success)."""
    of_seeds = ([run.series("rollout/success_rate") for run in one.training] for one in line.runs.experiments)
    return [[curve for curve in curves if curve] for curves in of_seeds]


def _seeds(line: Line) -> str:
    count = len(line.runs.seeds)
    return "1 seed" if count == 1 else f"{count} seeds"


def _panels(count: int, *, height: float) -> tuple[Figure, list[Any]]:
    """As many small axes, in rows of three; what is left of the last row is empty."""
    num_rows = -(-count // PANELS_A_ROW)
    figure = Figure(figsize=(4.2 * min(count, PANELS_A_ROW), height * num_rows + 0.4), layout="constrained")
    panels = list(figure.subplots(num_rows, min(count, PANELS_A_ROW), squeeze=False).flat)
    for axes in panels[count:]:
        axes.set_axis_off()
    return figure, panels


def _plain(axes: Any) -> None:
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
