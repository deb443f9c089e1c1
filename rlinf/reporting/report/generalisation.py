"""What a policy keeps where something is other than it was in training: success on further suites, stage by stage."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

import numpy as np

from rlinf.custom import metrics
from rlinf.custom.metrics import Estimate, SuccessMatrix
from rlinf.reporting.ledger import EvaluationRecord
from rlinf.reporting.report.charts import row_names
from rlinf.reporting.report.collect import Experiment
from rlinf.reporting.report.columns import Column
from rlinf.reporting.report.lines import Line
from rlinf.reporting.report.words import CHANGES, further_name, listing, percent, suite_name

NOTE = (
    "Mean success over the tasks of each suite, after each stage of learning. LIBERO-PRO (arXiv:2510.03827) changes "
    "one thing about every task: the words of the instruction, the looks of the objects, their places, or the goal. "
    "None of this is part of the success matrix, AVG, NBT or FWT."
)


def suites_of(experiments: Iterable[Experiment]) -> tuple[str, ...]:
    """Further suites that any of these was evaluated on; words, looks, places, goals, then others."""
    suites = dict.fromkeys(suite for one in experiments for suite in one.further)
    changes = list(CHANGES)
    return tuple(sorted(suites, key=lambda suite: next((changes.index(c) for c in changes if suite.endswith(c)), 9)))


def columns(experiments: Sequence[Experiment]) -> tuple[Column, ...]:
    """Of each further suite its success at the end."""
    return tuple(_column(suite, experiments[0].suite) for suite in suites_of(experiments))


def stage_columns(experiments: Sequence[Experiment]) -> tuple[Column, ...]:
    """Of each further suite its success after each stage; stage 0 is the first row, as a rule the base model."""
    count = max((len(one.matrix.stages) for one in experiments if one.matrix is not None), default=0)
    return tuple(_column(suite, "", stage) for suite in suites_of(experiments) for stage in range(count))


def stage_table(line: Line) -> tuple[list[str], list[tuple[str, list[Column]]]]:
    """The table of a line: names of the suites, the learnt one first, and by row its name and its columns."""
    learnt = line.first.suite
    suites = (learnt, *suites_of(line.experiments))
    rows = [
        (name, [_column(suite, learnt, stage) for suite in suites])
        for stage, name in enumerate(row_names(line.matrices[0]))
    ]
    return [suite_name(learnt), *(further_name(suite, learnt) for suite in suites[1:])], rows


def lines_of_text(experiment: Experiment) -> list[str]:
    """The same in words, for a terminal; empty where there is no further suite."""
    if not experiment.further or experiment.matrix is None:
        return []
    names, rows = stage_table(Line.of(experiment))
    return [
        f"{row}: "
        + ", ".join(f"{name} {_text(one.measure(experiment))}" for name, one in zip(names, cells, strict=True))
        for row, cells in rows
    ]


def section(lines: Sequence[Line], *, with_tasks: bool) -> str:
    """One table of all lines that were evaluated on further suites; ``with_tasks``: each task's success, folded."""
    shown = [line for line in lines if line.matrices and suites_of(line.experiments)]
    if not shown:
        return ""
    tables = [_table(line, is_named=len(lines) > 1) for line in shown]
    tasks = [_tasks(one, suite) for line in shown for one in line.experiments for suite in suites_of([one])]
    return (
        f'<h2>Generalisation</h2><p class="hint">{NOTE}</p><div class="card">'
        f"{''.join(tables)}{''.join(tasks) if with_tasks else ''}</div>"
    )


def _column(suite: str, learnt_suite: str, stage: int | None = None) -> Column:
    when = "at the end" if stage is None else f"after stage {stage}"
    name = further_name(suite, learnt_suite)
    return Column(
        key=suite if stage is None else f"{suite}_stage_{stage}",
        name=name[:1].upper() + name[1:],  # names of suites keep their capitals
        measure=lambda experiment: _success(experiment, suite, stage),
        better=1,
        words=f"mean success on {suite} {when}",
        in_comparison=stage is None,
    )


def _success(experiment: Experiment, suite: str, stage: int | None) -> Estimate | None:
    """Mean over a suite's tasks; None where that row was not evaluated on it."""
    matrix = experiment.matrix
    if matrix is None or (stage is not None and stage >= len(matrix.stages)):
        return None
    row = len(matrix.stages) - 1 if stage is None else stage
    if suite == experiment.suite:
        return _mean(matrix.tasks, matrix.success_RK[row].tolist(), matrix.episodes_RK[row].tolist())
    learnt = tuple(task for tasks in matrix.stages[: row + 1] for task in tasks)
    record = next((one for one in experiment.further.get(suite, ()) if one.learnt_tasks == learnt), None)
    return None if record is None else _mean(*zip(*_cells(record), strict=True))


def _cells(record: EvaluationRecord) -> list[tuple[int, float, int]]:
    return [(task, record.success[task], record.episodes[task]) for task in sorted(record.success)]


def _mean(tasks: Sequence[int], success: Sequence[float], episodes: Sequence[int]) -> Estimate | None:
    one_row = SuccessMatrix(tuple(tasks), ((),), np.array([success], np.float64), np.array([episodes], np.int64))
    return metrics.base_success(one_row)


def _text(value: Estimate | float | None) -> str:
    return percent(value.value) if isinstance(value, Estimate) else "–"


def _table(line: Line, *, is_named: bool) -> str:
    names, rows = stage_table(line)
    head = "".join(f'<th class="num">{escape(name)}</th>' for name in names)
    body = []
    for row, columns_of_row in rows:
        cells = []
        for column in columns_of_row:
            cell = line.cell(column)
            span = (
                ""
                if cell is None or cell.low is None or cell.high is None
                else (f"<br><small>{percent(cell.low)} to {percent(cell.high)}</small>")
            )
            cells.append(f'<td class="num">{"–" if cell is None else percent(cell.value)}{span}</td>')
        body.append(f'<tr><th scope="row">{escape(row)}</th>{"".join(cells)}</tr>')
    title = f"<h3>{escape(line.name)}</h3>" if is_named else ""
    return (
        f'{title}<div class="scroll"><table class="plain wide names"><thead><tr><th></th>{head}</tr></thead>'
        f"<tbody>{''.join(body)}</tbody></table></div>"
    )


def _tasks(experiment: Experiment, suite: str) -> str:
    """Success of each task on one suite; a task that was left out has no column, and the summary says so."""
    records = experiment.further[suite]
    tasks = sorted(set().union(*(record.success for record in records)))
    known = experiment.matrix.tasks if experiment.matrix is not None else tasks
    out = [str(task) for task in known if task not in tasks]
    note = f", without {'task' if len(out) == 1 else 'tasks'} {listing(out)}" if out else ""
    head = "".join(f'<th class="num">{task}</th>' for task in tasks)
    body = "".join(
        f'<tr><th scope="row">{escape(record.row)}</th>'
        + "".join(
            f'<td class="num">{percent(record.success[task]) if task in record.success else "–"}</td>' for task in tasks
        )
        + "</tr>"
        for record in records
    )
    return (
        f"<details><summary>{escape(suite_name(suite))}, task by task{note} <small>{escape(suite)}</small></summary>"
        f'<div class="scroll"><table class="plain wide"><thead><tr><th>Task</th>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div></details>"
    )
