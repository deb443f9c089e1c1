"""Group experiments for comparison: the seeds of one method, and the methods that may stand in one table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from rlinf.config.differences import scope_of
from rlinf.reporting.ledger import EvaluationRecord, row_tasks
from rlinf.reporting.metrics import Estimate, SuccessMatrix, over_seeds
from rlinf.reporting.report.collect import Experiment
from rlinf.reporting.report.columns import COLUMNS, COMPARED, Column, further_suites, mean_success, suite_column
from rlinf.reporting.report.names import (
    further_name,
    method_name,
    method_place,
    row_name,
    suite_name,
    task_ranges,
)

LEFT_OUT = "In no table"


@dataclass(frozen=True, kw_only=True)
class MethodRuns:
    """One method with one choice of settings, over one or more seeds that learnt the same tasks in the same order."""

    name: str
    experiments: tuple[Experiment, ...]
    matrices: tuple[SuccessMatrix, ...]

    @staticmethod
    def of(*experiments: Experiment) -> MethodRuns:
        """These runs, in the order of their seeds."""
        ordered = tuple(sorted(experiments, key=lambda one: one.seed))
        matrices = tuple(one.matrix for one in ordered if one.matrix is not None)
        return MethodRuns(name=method_name(ordered[0].method), experiments=ordered, matrices=matrices)

    @property
    def first(self) -> Experiment:
        """Stands for all where seeds do not matter."""
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

    def cell(self, column: Column) -> Estimate | None:
        """Mean over the seeds with Student's interval; one seed keeps the interval of its evaluation episodes."""
        return over_seeds([column.measure(one) for one in self.experiments])

    def start_on(self, tasks: Sequence[int]) -> Estimate | None:
        """Success of the first row on some tasks; None where they were not evaluated."""
        if not set(tasks) <= set(self.matrices[0].tasks) or not tasks:
            return None
        columns = [self.matrices[0].column(task) for task in tasks]
        return over_seeds(
            [mean_success(one.success_RK[0, columns], one.episodes_RK[0, columns]) for one in self.matrices]
        )

    def stage_table(self) -> tuple[list[str], list[tuple[str, list[Column]]]]:
        """Success on the learnt suite and on further ones: names of the suites, then by row its name and columns."""
        learnt = self.first.suite
        suites = (learnt, *further_suites(self.experiments))
        rows = [
            (row_name(stage), [suite_column(suite, learnt, number) for suite in suites])
            for number, stage in enumerate(self.matrices[0].stages)
        ]
        return [suite_name(learnt), *(further_name(suite, learnt) for suite in suites[1:])], rows


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Methods that may be compared: same suite, tasks learnt, tasks evaluated, assets and decoding.

    ``references`` learn nothing (random actions) and are only measured on the same tasks.
    """

    title: str
    methods: tuple[MethodRuns, ...]
    references: tuple[MethodRuns, ...] = ()

    @property
    def columns(self) -> list[Column]:
        """The metrics of the success matrix, then success on further suites."""
        suites = further_suites(one for method in self.methods for one in method.experiments)
        further = [suite_column(suite, self.methods[0].first.suite) for suite in suites]
        return [*(column for column in COLUMNS if column.key in COMPARED), *further]

    def reference_cell(self, reference: MethodRuns, column: Column) -> Estimate | None:
        """What a reference has to show: success on the tasks that the others learn, and on the held-out ones."""
        matrix = self.methods[0].matrices[0]
        tasks = {"avg": matrix.learnt_tasks, "zero_shot": matrix.held_out_tasks}.get(column.key, ())
        return reference.start_on(tasks)

    def best(self, column: Column) -> float | None:
        """The best mean among the continual-learning methods; None where nothing is compared."""
        cells = [cell for one in self.methods if not one.is_joint and (cell := one.cell(column)) is not None]
        if not column.better or len(cells) < 2:
            return None
        return max((cell.value for cell in cells), key=lambda value: column.better * value)


def comparisons(experiments: Sequence[Experiment]) -> list[Comparison]:
    """Comparable groups, the one with the most methods first; experiments without a matrix are in none.

    A method of which nothing but a start was evaluated is a reference of the groups it shares suite and assets with.
    """
    everything = _by_method(experiments)
    learning = {one.first.method for one in everything if one.matrices[0].learnt_tasks}
    idle = [one for one in everything if learning and one.first.method not in learning]
    groups: dict[tuple[object, ...], list[MethodRuns]] = {}
    for one in everything:
        if one not in idle:
            matrix = one.matrices[0]
            key = (*_place(one), frozenset(matrix.learnt_tasks), matrix.tasks, one.first.records[-1].temperature)
            groups.setdefault(key, []).append(one)
    return [
        Comparison(
            title=_title(group[0]),
            methods=_named(group),
            references=tuple(one for one in idle if _place(one) == _place(group[0])),
        )
        for group in sorted(groups.values(), key=lambda methods: -len(methods))
    ]


def left_out(experiments: Sequence[Experiment]) -> list[tuple[Experiment, str]]:
    """Experiments that are in no comparison, and why."""
    methods = [one for group in comparisons(experiments) for one in (*group.methods, *group.references)]
    shown = {id(one) for method in methods for one in method.experiments}
    other = "evaluated on another suite or other assets than what learns"
    return [(one, one.matrix_problem or other) for one in experiments if id(one) not in shown]


def results_settings(experiment: Experiment) -> dict[str, str]:
    """The configuration, as far as results depend on it."""
    config = experiment.info.config if experiment.info else {}
    return {key: value for key, value in config.items() if not scope_of(key)}


def differing_settings(methods: Sequence[MethodRuns]) -> dict[str, list[str]]:
    """Settings in which methods differ: key to one text each ("" where a configuration lacks the key).

    Methods whose runs left no configuration behind are not looked at.
    """
    configs = [results_settings(one.first) for one in methods]
    keys = dict.fromkeys(key for config in configs for key in config)
    return {
        key: [config.get(key, "") for config in configs]
        for key in keys
        if len({config.get(key) for config in configs if config}) > 1
    }


def _place(method: MethodRuns) -> tuple[str, str]:
    return method.first.suite, method.first.records[-1].assets


def _by_method(experiments: Sequence[Experiment]) -> list[MethodRuns]:
    groups: dict[tuple[object, ...], list[Experiment]] = {}
    for one in experiments:
        if one.matrix is not None:
            record, settings = one.records[-1], tuple(sorted(results_settings(one).items()))
            same = (one.method, one.suite, record.assets, record.temperature, settings)
            groups.setdefault((*same, one.matrix.stages, one.matrix.tasks), []).append(one)
    methods = []
    for group in groups.values():
        if len({one.seed for one in group}) == len(group):
            methods.append(MethodRuns.of(*group))
        else:  # the same seed twice: what lies in different folders are different runs
            folders = dict.fromkeys(one.folder for one in group)
            methods += [MethodRuns.of(*(one for one in group if one.folder == folder)) for folder in folders]
    return methods


def _named(methods: Sequence[MethodRuns]) -> tuple[MethodRuns, ...]:
    """Runs of one method are told apart by their task order, by up to two settings, or by their folder."""
    named = []
    for one in methods:
        alike = [other for other in methods if other.first.method == one.first.method]
        suffix = ""
        if len(alike) > 1:
            keys = differing_settings(alike)
            if len({other.matrices[0].learnt_tasks for other in alike}) == len(alike):
                suffix = f"order {', '.join(map(str, one.matrices[0].learnt_tasks))}"
            elif 0 < len(keys) <= 2:
                suffix = ", ".join(f"{key.rsplit('.', 1)[-1]} {keys[key][alike.index(one)]}" for key in keys)
            else:
                suffix = str(one.first.folder)
        named.append(replace(one, name=f"{one.name} ({suffix})") if suffix else one)
    return tuple(sorted(named, key=lambda one: (one.is_joint, method_place(one.first.method))))


def _title(method: MethodRuns) -> str:
    record, learnt = method.first.records[-1], method.matrices[0].learnt_tasks
    noun = "task" if len(learnt) == 1 else "tasks"
    tasks = f"{noun} {task_ranges(sorted(learnt))}" if learnt else "base model"
    return f"{suite_name(method.first.suite)}, {tasks} ({record.decoding_name}, {record.assets} assets)"


# ---------------------------------------------------------------------------------------------------------- LoRA scale


@dataclass(frozen=True)
class ScaleCurve:
    """One policy under several scales: scale to the mean success of each seed, on learnt and on held-out tasks."""

    label: str
    learnt: dict[float, list[float]]
    held_out: dict[float, list[float]]


def scale_curves(method: MethodRuns) -> list[ScaleCurve]:
    """One curve per stage and merge coefficient that was probed; the policy's own evaluation is a point of it.

    Of several evaluations of a seed at one scale, the last counts. Seeds without probes are left out.
    """
    found: dict[tuple[tuple[int, ...], float | None], dict[tuple[int, float], EvaluationRecord]] = {}
    for one in method.experiments:
        probed = {(record.learnt_tasks, record.previous_coeff) for record in one.probes}
        for record in (*one.records, *one.probes):
            if (key := (record.learnt_tasks, record.previous_coeff)) in probed:
                found.setdefault(key, {})[one.seed, record.lora_scale] = record
    curves = []
    for (learnt, coefficient), records in found.items():
        label = f"{method.name}, {row_name(row_tasks(next(iter(records.values())).row))}"
        label += f", earlier adapters × {coefficient:g}" if coefficient is not None else ""
        curve = ScaleCurve(label, {}, {})
        for (_, scale), record in sorted(records.items(), key=lambda item: item[0][1]):
            for into, tasks in ((curve.learnt, set(learnt)), (curve.held_out, set(record.success) - set(learnt))):
                if rates := [rate for task, rate in record.success.items() if task in tasks]:
                    into.setdefault(scale, []).append(sum(rates) / len(rates))
        curves.append(curve)
    return curves
