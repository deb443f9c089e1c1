"""Pictures of the results table: what is learnt against what is forgotten, success matrices, and training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from benchmarks.crl_rows import ROWS
from benchmarks.crl_shown import Line, standard_error
from rlinf.reporting.report.columns import COLUMNS

DPI = 120
METHOD, CONTROL, SEQUENTIAL, QUIET = "#0f766e", "#c2410c", "#111827", "#9ca3af"
LEFT_OUT_OF_TRADE_OFF = ("multitask",)  # all tasks at once: nothing to forget
PANELS_A_ROW = 3
TRADE_OFF_Y = (-2, 102)


def draw(folder: Path, suite: str, lines: Sequence[Line]) -> None:
    """Write ``tradeoff.png``, ``matrices.png`` and ``training.png``; lines: of one suite."""
    folder.mkdir(parents=True, exist_ok=True)
    sampled = [line for line in lines if line.temperature != 0]
    if not sampled:
        return
    for name, figure in (
        ("tradeoff", trade_off(suite, lines)),
        ("matrices", matrices(sampled)),
        ("training", training(sampled)),
    ):
        figure.savefig(folder / f"{name}.png", dpi=DPI)


def trade_off(suite: str, lines: Sequence[Line]) -> Figure:
    """AVG against NBT, a panel for each way of choosing actions; what is best lies at the upper left."""
    temperatures = sorted({line.temperature for line in lines}, reverse=True)
    figure = Figure(figsize=(5.6 * len(temperatures), 4.6), layout="constrained")
    panels = figure.subplots(1, len(temperatures), sharex=True, sharey=True, squeeze=False)[0]
    for axes, temperature in zip(panels, temperatures, strict=True):
        shown = [line for line in lines if line.temperature == temperature and line.row not in LEFT_OUT_OF_TRADE_OFF]
        points = [point for line in shown if (point := _point(axes, line)) is not None]
        bases = [value for line in shown if ROWS[line.row].needs != "scratch" for value in line.values("base")]
        if bases:
            axes.axhline(100 * float(np.mean(bases)), color=QUIET, linestyle="--", linewidth=1)
            axes.annotate("base model", (0.01, 100 * float(np.mean(bases))), xycoords=("axes fraction", "data"),
                          ha="left", va="top", color=QUIET, fontsize=8)  # fmt: skip
        axes.set_ylim(*TRADE_OFF_Y)
        _names(axes, points)
        axes.set_title(shown[0].way if shown else "", fontsize=10)
        axes.set_xlabel("NBT: forgotten, points (left is better)")
        _plain(axes)
    panels[0].set_ylabel("AVG: success on the learnt tasks at the end, %")
    legend = "squares: controls; bars: standard error over seeds, faint ones 95 % interval of one seed's episodes"
    figure.suptitle(f"{suite}: learnt against forgotten ({legend})", fontsize=10)
    return figure


def _point(axes: Any, line: Line) -> tuple[float, float, str, str] | None:
    """Its place, its name and its colour; None: nothing is known of what it forgot."""
    avg, nbt = line.values("avg"), line.values("nbt")
    if not avg or not nbt:
        return None
    x, y = 100 * float(np.mean(nbt)), 100 * float(np.mean(avg))
    colour = SEQUENTIAL if line.row == "sequential" else CONTROL if is_control(line.row) else METHOD
    if len(avg) > 1:
        reach_x, reach_y = ([[100 * standard_error(values)]] * 2 for values in (nbt, avg))
    else:
        reach_x, reach_y = _reach(line, "nbt"), _reach(line, "avg")
    axes.errorbar(x, y, xerr=reach_x, yerr=reach_y, color=colour, linewidth=1, alpha=0.5 if len(avg) > 1 else 0.2)
    axes.plot(x, y, marker="s" if is_control(line.row) else "o", markersize=6, color=colour)
    return x, y, line.title, colour


def _reach(line: Line, key: str) -> list[list[float]]:
    """How far the interval of a single seed's episodes reaches below and above, in points."""
    cell = line.runs.cell(next(column for column in COLUMNS if column.key == key))
    assert cell is not None
    assert cell.low is not None
    assert cell.high is not None
    return [[100 * (cell.value - cell.low)], [100 * (cell.high - cell.value)]]


def _names(axes: Any, points: Sequence[tuple[float, float, str, str]]) -> None:
    """Names of points in the right half stand to their left; the others, which lie close together, in a column in the
    middle, from the highest point down, each with a line to its point."""
    middle, gap = sum(axes.get_xlim()) / 2, 0.042 * (TRADE_OFF_Y[1] - TRADE_OFF_Y[0])
    crowd = sorted((point for point in points if point[0] <= middle), key=lambda point: (-point[1], point[0]))
    height = float(np.mean([point[1] for point in crowd] or [0.0])) + 0.5 * gap * len(crowd)
    for index, (x, y, name, colour) in enumerate(crowd):
        line = {"arrowstyle": "-", "color": colour, "alpha": 0.35, "linewidth": 0.8, "relpos": (0, 0.5),
                "shrinkA": 0}  # fmt: skip
        axes.annotate(name, (x, y), xytext=(middle, height - index * gap), va="center", fontsize=8, color=colour,
                      arrowprops=line, bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5})  # fmt: skip
    for x, y, name, colour in points:
        if x > middle:
            axes.annotate(name, (x, y), xytext=(-6, 4), textcoords="offset points", ha="right", fontsize=8,
                          color=colour)  # fmt: skip


def is_control(row: str) -> bool:
    """It changes one of pretraining, LoRA and on-policy learning, not the method."""
    return row.startswith(("sft", "full", "scratch"))


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
