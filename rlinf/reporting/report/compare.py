"""Methods side by side: table, heat maps, curves, bars and the settings in which they differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from rlinf.custom.metrics import Estimate, SuccessMatrix, wilson_interval
from rlinf.reporting.report import charts, generalisation, overlays, scales
from rlinf.reporting.report.collect import TrainingRun
from rlinf.reporting.report.columns import COLUMNS, Column
from rlinf.reporting.report.lines import Cell, Line, Setting, differing_settings
from rlinf.reporting.report.overlays import Frame, GroupBar, Series, Spot
from rlinf.reporting.report.words import count, percent, points_text, task_ranges

# Whole epochs that may stand below a learning curve: about as many as fit.
_MAX_TICKS = 12


def section(setting: Setting, *, anchors: Mapping[int, str], is_only: bool) -> str:
    """All that compares the lines of one setting; ``anchors`` are the places of single runs by ``id(experiment)``."""
    parts = [
        f"<h2>{escape('Methods side by side' if is_only else setting.title)}</h2>",
        f'<p class="hint">{escape(setting.title)}.</p>' if is_only else "",
        table(setting, anchors),
        _heat_maps(setting),
        generalisation.section(setting.lines, with_tasks=False),
        _stage_curves(setting),
        _learning_curves(setting),
        _task_bars(setting),
        scales.section(setting.lines),
        _settings(setting),
    ]
    return f'<section class="setting">{"".join(parts)}</section>'


# ---------------------------------------------------------------------------------------------------------- table


def table(setting: Setting, anchors: Mapping[int, str]) -> str:
    """One row per line: mean and interval over the seeds; the best mean of a column is bold."""
    columns = compared(setting)
    head = "".join(f'<th class="num" title="{escape(one.words)}">{one.name}{_arrow(one)}</th>' for one in columns)
    best = {column.key: setting.best(column) for column in columns}
    body = []
    for number, line in enumerate(setting.lines):
        cells = "".join(_table_cell(line.cell(column), column, best[column.key]) for column in columns)
        key = f'<i class="swatch" style="background:var(--t{number % charts.NUM_COLOURS})"></i>'
        body.append(_table_row(line, key, "joint training" if line.is_joint else "", cells, anchors))
    for line in setting.references:
        cells = "".join(_table_cell(setting.reference_cell(line, column), column, None) for column in columns)
        body.append(_table_row(line, "", "learns nothing", cells, anchors))
    words = ". ".join(f"{one.name}: {one.words}" for one in columns if one.better)
    return (
        '<div class="card scroll"><table class="plain wide names compare"><thead><tr><th>Method</th>'
        f"{head}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
        f'<p class="hint">{words}. Percent, or points with a sign. Bold: the '
        "best mean, joint training left out. Small print: 95% confidence interval, from the spread of the seeds "
        "(Student’s t) or, for a single seed, from its evaluation episodes. Where intervals overlap, the order of two "
        "methods is not certain.</p>"
    )


def compared(setting: Setting) -> list[Column]:
    """The columns of a setting's tables: the metrics of the matrix, then success on further suites."""
    further = generalisation.columns([one for line in setting.lines for one in line.experiments])
    return [column for column in (*COLUMNS, *further) if column.in_comparison]


def _table_row(line: Line, key: str, remark: str, cells: str, anchors: Mapping[int, str]) -> str:
    links = [f'<a href="#{anchors[id(one)]}">{one.seed}</a>' for one in line.experiments]
    note = f"{count(len(links), 'seed')}: {', '.join(links)}" + (f", {remark}" if remark else "")
    row = ' class="joint"' if remark else ""
    return f'<tr{row}><th scope="row">{key}{escape(line.name)}<br><small>{note}</small></th>{cells}</tr>'


def _arrow(column: Column) -> str:
    return {1: " ↑", -1: " ↓", 0: ""}[column.better]


def show(value: float, column: Column) -> str:
    """A value as the pages write it."""
    return points_text(value) if column.is_difference else percent(value)


def _table_cell(cell: Cell | None, column: Column, best: float | None) -> str:
    if cell is None:
        return '<td class="num">–</td>'
    text = show(cell.value, column)
    is_best = best is not None and text == show(best, column)
    number = f"<b>{text}</b>" if is_best else text
    span = ""
    if cell.low is not None and cell.high is not None:
        span = f"<br><small>{show(cell.low, column)} to {show(cell.high, column)}</small>"
    return f'<td class="num{" best" if is_best else ""}">{number}{span}</td>'


# ------------------------------------------------------------------------------------------------------ heat maps


def _heat_maps(setting: Setting) -> str:
    cards = []
    for line in setting.lines:
        seeds = f"mean of {len(line.seeds)} seeds" if len(line.seeds) > 1 else f"seed {line.seeds[0]}"
        cards.append(
            f'<div class="card"><h3>{escape(line.name)} <small>{seeds}</small></h3>'
            f"{charts.heat_map(line.pooled, line.first.languages)}</div>"
        )
    return (
        '<h2>Success matrices</h2><p class="hint">Rows: the policy after each stage; columns: tasks; percent. A frame '
        "marks a task’s own training, a dot what was learnt earlier.</p>"
        f'<div class="maps">{"".join(cards)}</div>'
    )


# --------------------------------------------------------------------------------------------------------- curves


def _stage_curves(setting: Setting) -> str:
    """Mean success on the tasks learnt so far, after each stage."""
    series, levels, names = [], [], []
    for number, line in enumerate(setting.lines):
        last = len(line.matrices[0].stages) - 1
        if line.is_joint:
            value = sum(_learnt_so_far(matrix, last) for matrix in line.matrices) / len(line.matrices)
            levels.append((line.name, value))
            continue
        first = 1 if line.matrices[0].has_base else 0
        spots = []
        for row in range(first, last + 1):
            estimate = _spread([_learnt_so_far(matrix, row) for matrix in line.matrices])
            spots.append(Spot(row - first + 1, estimate.value, estimate.low, estimate.high))
        if len(spots) > 1:
            series.append(Series(line.name, number, (tuple(spots),)))
            names.append((line.name, number))
    if not series:
        return ""
    length = max(len(one.pieces[0]) for one in series)
    frame = Frame(1, length, tuple((x, str(x)) for x in range(1, length + 1)), "stage", levels=tuple(levels))
    words = "Mean over these tasks, after each stage. Bands span the seeds."
    words += " The dashed line is joint training at its end." if levels else ""
    return (
        f'<h2>Success on the tasks learnt so far</h2><p class="hint">{words}</p>'
        f'<div class="card">{overlays.curves(series, frame)}{overlays.legend(names)}</div>'
    )


def _learnt_so_far(matrix: SuccessMatrix, row: int) -> float:
    learnt = [task for stage in matrix.stages[: row + 1] for task in stage]
    return sum(matrix.success(row, task) for task in learnt) / len(learnt)


def _spread(values: Sequence[float]) -> Estimate:
    """Mean with the smallest and the largest: what a few seeds did, without pretending to know their distribution."""
    return Estimate(sum(values) / len(values), min(values), max(values))


@dataclass(frozen=True)
class _Stage:
    """The training of one stage on all seeds of a line."""

    runs: tuple[TrainingRun, ...]

    @property
    def width(self) -> int:
        return max(len(run.epochs) for run in self.runs)

    def spots(self, start: float) -> tuple[Spot, ...]:
        by_epoch: dict[float, list[float]] = {}
        for run in self.runs:
            for epoch, value in run.series("rollout/success_rate"):
                by_epoch.setdefault(epoch, []).append(value)
        spots = []
        for epoch, values in sorted(by_epoch.items()):
            estimate = _spread(values)
            spots.append(Spot(start + epoch - 0.5, estimate.value, estimate.low, estimate.high))
        return tuple(spots)


def _learning_curves(setting: Setting) -> str:
    """Success of training rollouts, stage after stage; joint training has no stages to align with."""
    lines = [(number, line, _stages(line)) for number, line in enumerate(setting.lines) if not line.is_joint]
    lines = [(number, line, stages) for number, line, stages in lines if stages]
    if not lines:
        return ""
    widths = [
        max(stages[place].width for _, _, stages in lines if place < len(stages))
        for place in range(max(len(stages) for _, _, stages in lines))
    ]
    starts = [sum(widths[:place]) for place in range(len(widths))]
    series = [
        Series(line.name, number, tuple(stage.spots(start) for stage, start in zip(stages, starts, strict=False)))
        for number, line, stages in lines
    ]
    tasks = [
        {stages[place].runs[0].tasks for _, _, stages in lines if place < len(stages)} for place in range(len(widths))
    ]
    titles = [
        f"Task {task_ranges(next(iter(found)))}" if len(found) == 1 else f"Stage {place + 1}"
        for place, found in enumerate(tasks)
    ]
    total = sum(widths)
    step = next(step for step in (1, 2, 5, 10, 20, 50, 100, 10**6) if total / step <= _MAX_TICKS)
    ticks = tuple((epoch - 0.5, str(epoch)) for epoch in range(step, total + 1, step))
    frame = Frame(0, total, ticks, "epoch", tuple(zip(starts, titles, strict=True)))
    skipped = " Joint training is further down." if len(lines) < len(setting.lines) else ""
    return (
        '<h2>Learning curves</h2><p class="hint">Success of the training rollouts on the task in training, mean over '
        f"the seeds; bands span the seeds.{skipped}</p>"
        f'<div class="card">{overlays.curves(series, frame)}'
        f"{overlays.legend([(line.name, number) for number, line, _ in lines])}</div>"
    )


def _stages(line: Line) -> list[_Stage]:
    stages = []
    for tasks in line.matrices[0].stages:
        runs = [run for one in line.experiments for run in one.training if set(run.tasks) == set(tasks) and run.epochs]
        if tasks and runs:
            stages.append(_Stage(tuple(runs)))
    return stages


# ----------------------------------------------------------------------------------------------------------- bars


def _task_bars(setting: Setting) -> str:
    first = setting.lines[0].pooled
    languages: dict[int, str] = {}
    for line in setting.lines:
        languages.update(line.first.languages)
    learnt = list(first.learnt_tasks)
    groups = []
    for task in [*learnt, *(task for task in first.tasks if task not in learnt)]:
        bars = [_bar(line, task, number) for number, line in enumerate(setting.lines)]
        title = f"Task {task}" + ("" if task in learnt else " (held out)")
        groups.append((title, languages.get(task, ""), bars))
    extra = '<span><i class="whisker"></i>95% confidence interval over the episodes of all seeds</span>'
    if any(line.pooled.has_base for line in setting.lines):
        extra = '<span><i class="base-mark"></i>base model</span>' + extra
    names = [(line.name, number) for number, line in enumerate(setting.lines)]
    return (
        '<h2>Task by task, at the end</h2><div class="card">'
        f"{overlays.legend(names, extra)}{overlays.grouped_bars(groups)}</div>"
    )


def _bar(line: Line, task: int, colour: int) -> GroupBar:
    matrix = line.pooled
    rate = matrix.success(len(matrix.stages) - 1, task)
    low, high = wilson_interval(rate, float(matrix.episodes_RK[-1, matrix.column(task)]))
    return GroupBar(line.name, colour, rate, low, high, matrix.success(0, task) if matrix.has_base else None)


# ------------------------------------------------------------------------------------------------------- settings


def _settings(setting: Setting) -> str:
    """Only keys that differ; what every run has of its own (seed, folders, tasks) is left out."""
    if len(setting.lines) < 2:
        return ""
    rows = differing_settings(setting.lines)
    unknown = [line.name for line in setting.lines if not (line.first.info and line.first.info.config)]
    note = f" No configuration was found for {', '.join(unknown)}." if unknown else ""
    if not rows:
        same = "" if len(unknown) > len(setting.lines) - 2 else " The lines share all settings but their method."
        return f'<h2>Settings that differ</h2><p class="hint">{escape(same + note)}</p>' if same or note else ""
    head = "".join(f"<th>{escape(line.name)}</th>" for line in setting.lines)
    body = "".join(
        f'<tr><th scope="row"><code>{escape(key)}</code></th>'
        + "".join(f"<td><code>{escape(text)}</code></td>" if text else "<td>–</td>" for text in texts)
        + "</tr>"
        for key, texts in rows.items()
    )
    return (
        f'<h2>Settings that differ</h2><p class="hint">Seeds, folders and tasks are left out.{escape(note)}</p>'
        f'<div class="card scroll"><table class="plain wide diff"><thead><tr><th>Key</th>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )
