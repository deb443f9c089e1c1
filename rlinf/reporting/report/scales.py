"""Success over the LoRA scale, from the ledger's probes of one policy under several scales."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rlinf.reporting.ledger import EvaluationRecord
from rlinf.reporting.report import overlays
from rlinf.reporting.report.charts import NUM_COLOURS
from rlinf.reporting.report.lines import Line
from rlinf.reporting.report.overlays import Frame, Series, Spot
from rlinf.reporting.report.words import row_words

_MAX_TICKS = 8


@dataclass(frozen=True)
class ScaleCurve:
    """One policy under several scales: scale to the mean success of each seed, on learnt and on held-out tasks."""

    label: str
    learnt: dict[float, list[float]]
    held_out: dict[float, list[float]]


def scale_curves(line: Line) -> list[ScaleCurve]:
    """One curve per stage and merge coefficient that was probed; the policy's own evaluation is a point of it.

    Of several evaluations of a seed at one scale, the last counts. Seeds without probes are left out.
    """
    found: dict[tuple[tuple[int, ...], float | None], dict[tuple[int, float], EvaluationRecord]] = {}
    for experiment in line.experiments:
        for record in experiment.probes:
            probes = found.setdefault((record.learnt_tasks, record.previous_coeff), {})
            probes[experiment.seed, record.lora_scale] = record
    for experiment in line.experiments:
        for record in experiment.records:
            own = found.get((record.learnt_tasks, record.previous_coeff))
            if own is not None and any(seed == experiment.seed for seed, _ in own):
                own.setdefault((experiment.seed, record.lora_scale), record)
    curves = []
    for (learnt, coefficient), records in found.items():
        label = f"{line.name}, {row_words(next(iter(records.values())).row)}"
        label += f", earlier adapters × {coefficient:g}" if coefficient is not None else ""
        curve = ScaleCurve(label, {}, {})
        for (_, scale), record in sorted(records.items(), key=lambda item: item[0][1]):
            for into, tasks in ((curve.learnt, set(learnt)), (curve.held_out, set(record.success) - set(learnt))):
                rates = [rate for task, rate in record.success.items() if task in tasks]
                if rates:
                    into.setdefault(scale, []).append(sum(rates) / len(rates))
        curves.append(curve)
    return curves


def section(lines: Sequence[Line]) -> str:
    """A chart for learnt and one for held-out tasks; empty without probes."""
    found = [
        (curve, number + NUM_COLOURS * turn)  # a method keeps its colour; its further curves are dashed
        for number, line in enumerate(lines)
        for turn, curve in enumerate(scale_curves(line))
    ]
    if not found:
        return ""
    panels = []
    for title, points in (
        ("Learnt tasks", [curve.learnt for curve, _ in found]),
        ("Held-out tasks", [curve.held_out for curve, _ in found]),
    ):
        if any(points):
            panels.append(f'<div class="card"><h3>{title}</h3>{_plot(found, points)}</div>')
    names = [(curve.label, colour) for curve, colour in found]
    return (
        '<h2>Success over the LoRA scale</h2><p class="hint">The adapter’s update times a factor, evaluated without '
        "training: 1 is the adapter as it was trained. Bands span the seeds.</p>"
        f'<div class="panels scale">{"".join(panels)}</div>{overlays.legend(names)}'
    )


def _plot(curves: Sequence[tuple[ScaleCurve, int]], points: Sequence[dict[float, list[float]]]) -> str:
    scales = sorted({scale for one in points for scale in one})
    left, right = min(0.0, scales[0]), max(1.0, scales[-1])
    series = [
        Series(curve.label, colour, (tuple(_spot(scale, values) for scale, values in one.items()),))
        for (curve, colour), one in zip(curves, points, strict=True)
        if one
    ]
    step = next(step for step in (0.25, 0.5, 1.0, 5.0, 10.0**6) if (right - left) / step <= _MAX_TICKS)
    first, last = math.ceil(left / step), math.floor(right / step)
    ticks = tuple((step * number, f"{step * number:g}") for number in range(first, last + 1))
    return overlays.curves(series, Frame(left, right, ticks, "scale"))


def _spot(scale: float, values: Sequence[float]) -> Spot:
    return Spot(scale, sum(values) / len(values), min(values), max(values))
