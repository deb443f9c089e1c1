"""Group experiments for comparison: seeds of one method in one setting are a line, comparable lines a setting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from rlinf.config.differences import scope_of
from rlinf.custom import metrics
from rlinf.custom.metrics import Estimate, SuccessMatrix
from rlinf.reporting.report.collect import Experiment
from rlinf.reporting.report.columns import Column
from rlinf.reporting.report.words import method_name, method_place, suite_name, task_ranges

LEFT_OUT = "In no table"


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One number of the comparison: ``low`` and ``high`` are None where there is no interval."""

    value: float
    low: float | None
    high: float | None
    seeds: int


@dataclass(frozen=True, kw_only=True)
class Line:
    """One method with one choice of settings, over one or more seeds that learnt the same tasks in the same order."""

    name: str
    experiments: tuple[Experiment, ...]
    matrices: tuple[SuccessMatrix, ...]

    @staticmethod
    def of(experiment: Experiment) -> Line:
        """One run as a line."""
        matrices = () if experiment.matrix is None else (experiment.matrix,)
        return Line(name=method_name(experiment.method), experiments=(experiment,), matrices=matrices)

    @property
    def first(self) -> Experiment:
        """Stands for the line where seeds do not matter."""
        return self.experiments[0]

    @property
    def seeds(self) -> tuple[int, ...]:
        """Seeds in rising order."""
        return tuple(experiment.seed for experiment in self.experiments)

    @property
    def is_joint(self) -> bool:
        """Trained on several tasks at once: an upper bound, not a continual-learning method."""
        learning = [stage for stage in self.matrices[0].stages if stage]
        return len(learning) == 1 and len(learning[0]) > 1

    @property
    def pooled(self) -> SuccessMatrix:
        """Episodes of all seeds in one matrix."""
        episodes_SRK = np.stack([matrix.episodes_RK for matrix in self.matrices])
        wins_SRK = np.stack([matrix.success_RK * matrix.episodes_RK for matrix in self.matrices])
        episodes_RK = episodes_SRK.sum(axis=0)
        success_RK = np.clip(wins_SRK.sum(axis=0) / episodes_RK, 0, 1)
        return replace(self.matrices[0], success_RK=success_RK, episodes_RK=episodes_RK)

    def cell(self, column: Column) -> Cell | None:
        """Mean over the seeds with Student's interval; one seed keeps the interval of its evaluation episodes."""
        return _over_seeds([column.measure(one) for one in self.experiments])

    def start_on(self, tasks: Sequence[int]) -> Cell | None:
        """Success of the first row on some tasks; None where they were not evaluated."""
        if not set(tasks) <= set(self.matrices[0].tasks) or not tasks:
            return None
        starts = []
        for matrix in self.matrices:
            columns = [matrix.column(task) for task in tasks]
            success_RK, episodes_RK = matrix.success_RK[:1, columns], matrix.episodes_RK[:1, columns]
            starts.append(metrics.base_success(SuccessMatrix(tuple(tasks), ((),), success_RK, episodes_RK)))
        return _over_seeds(starts)


def _over_seeds(measured: Sequence[Estimate | float | None]) -> Cell | None:
    found = [value for value in measured if value is not None]
    if not found:
        return None
    if len(found) > 1:
        estimate = metrics.over_seeds([value.value if isinstance(value, Estimate) else value for value in found])
        assert estimate is not None  # two seeds or more
        return Cell(value=estimate.value, low=estimate.low, high=estimate.high, seeds=len(found))
    value = found[0]
    if isinstance(value, Estimate):
        return Cell(value=value.value, low=value.low, high=value.high, seeds=1)
    return Cell(value=value, low=None, high=None, seeds=1)


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Lines that may be compared: same suite, tasks learnt, tasks evaluated, assets and decoding.

    ``references`` learn nothing (random actions) and are only measured on the same tasks.
    """

    title: str
    lines: tuple[Line, ...]
    references: tuple[Line, ...] = ()

    def reference_cell(self, line: Line, column: Column) -> Cell | None:
        """What a reference has to show: success on the tasks that the others learn, and on the held-out ones."""
        matrix = self.lines[0].matrices[0]
        tasks = {"avg": matrix.learnt_tasks, "zero_shot": matrix.held_out_tasks}.get(column.key, ())
        return line.start_on(tasks)

    def best(self, column: Column) -> float | None:
        """The best mean among the continual-learning lines; None where nothing is compared."""
        cells = [cell for line in self.lines if not line.is_joint and (cell := line.cell(column)) is not None]
        if not column.better or len(cells) < 2:
            return None
        return max((cell.value for cell in cells), key=lambda value: column.better * value)


def settings_of(experiments: Sequence[Experiment]) -> list[Setting]:
    """Comparable groups, the one with the most lines first; experiments without a matrix are in none.

    A method of which nothing but a start was evaluated is a reference of the groups it shares suite and assets with.
    """
    lines = _lines(experiments)
    learning = {line.first.method for line in lines if line.matrices[0].learnt_tasks}
    groups: dict[tuple[object, ...], list[Line]] = {}
    for line in lines:
        if learning and line.first.method not in learning:
            continue
        matrix, record = line.matrices[0], line.first.records[-1]
        key = (line.first.suite, frozenset(matrix.learnt_tasks), matrix.tasks, record.assets, record.temperature)
        groups.setdefault(key, []).append(line)
    ordered = sorted(groups.values(), key=lambda lines: -len(lines))
    idle = [line for line in lines if learning and line.first.method not in learning]
    return [
        Setting(
            title=_title(group[0]),
            lines=_named(group),
            references=tuple(line for line in idle if _place(line) == _place(group[0])),
        )
        for group in ordered
    ]


def left_out(experiments: Sequence[Experiment]) -> list[tuple[Experiment, str]]:
    """Experiments that are in no group of ``settings_of``, and why."""
    settings = settings_of(experiments)
    lines = [line for setting in settings for line in (*setting.lines, *setting.references)]
    shown = {id(one) for line in lines for one in line.experiments}
    other = "evaluated on another suite or other assets than what learns"
    return [(one, one.matrix_problem or other) for one in experiments if id(one) not in shown]


def _place(line: Line) -> tuple[str, str]:
    return line.first.suite, line.first.records[-1].assets


def results_settings(experiment: Experiment) -> dict[str, str]:
    """The configuration without what is particular to a run."""
    config = experiment.info.config if experiment.info else {}
    return {key: value for key, value in config.items() if not scope_of(key)}


def _lines(experiments: Sequence[Experiment]) -> list[Line]:
    groups: dict[tuple[object, ...], list[Experiment]] = {}
    for one in experiments:
        if one.matrix is not None:
            settings = tuple(sorted(results_settings(one).items()))
            record = one.records[-1]
            same = (one.method, one.suite, record.assets, record.temperature, settings)
            groups.setdefault((*same, one.matrix.stages, one.matrix.tasks), []).append(one)
    lines = []
    for group in groups.values():
        if len({one.seed for one in group}) < len(group):  # the same seed twice: these are different runs
            folders = dict.fromkeys(one.folder for one in group)
            parts = [[one for one in group if one.folder == folder] for folder in folders]
        else:
            parts = [group]
        for part in parts:
            ordered = tuple(sorted(part, key=lambda one: one.seed))
            matrices = tuple(one.matrix for one in ordered if one.matrix is not None)
            lines.append(Line(name=method_name(part[0].method), experiments=ordered, matrices=matrices))
    return lines


def _named(lines: Sequence[Line]) -> tuple[Line, ...]:
    """Lines of one method are told apart by their task order, by up to two settings, or by their folder."""
    named = []
    for line in lines:
        alike = [other for other in lines if other.first.method == line.first.method]
        suffix = ""
        if len(alike) > 1:
            orders = {other.matrices[0].learnt_tasks for other in alike}
            keys = differing_settings(alike)
            if len(orders) == len(alike):
                suffix = f"order {', '.join(map(str, line.matrices[0].learnt_tasks))}"
            elif 0 < len(keys) <= 2:
                suffix = ", ".join(f"{key.rsplit('.', 1)[-1]} {keys[key][alike.index(line)]}" for key in keys)
            else:
                suffix = str(line.first.folder)
        named.append(replace(line, name=f"{line.name} ({suffix})") if suffix else line)
    return tuple(sorted(named, key=lambda line: (line.is_joint, method_place(line.first.method))))


def differing_settings(lines: Sequence[Line]) -> dict[str, list[str]]:
    """Settings in which lines differ: key to one text per line ("" where a line's configuration lacks the key).

    Lines whose runs left no configuration behind are not looked at.
    """
    configs = [results_settings(line.first) for line in lines]
    rows = {}
    for key in dict.fromkeys(key for config in configs for key in config):
        if len({config.get(key) for config in configs if config}) > 1:
            rows[key] = [config.get(key, "") for config in configs]
    return rows


def _title(line: Line) -> str:
    matrix, record = line.matrices[0], line.first.records[-1]
    learnt = matrix.learnt_tasks
    noun = "task" if len(learnt) == 1 else "tasks"
    tasks = f"{noun} {task_ranges(sorted(learnt))}" if learnt else "base model"
    return f"{suite_name(line.first.suite)}, {tasks} ({record.decoding_words}, {record.assets} assets)"
