"""The metrics that tables show: one list for HTML, LaTeX and CSV, so that they cannot tell different stories."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rlinf.custom import metrics
from rlinf.custom.metrics import Estimate, SuccessMatrix
from rlinf.reporting.report.collect import Experiment, TrainingRun

# Fewer evaluations while a task is learnt than this are no learning curve (before and after make two).
MIN_CURVE = 3


@dataclass(frozen=True, kw_only=True)
class Column:
    """One metric: its names, how it is measured, whether more (+1) or less (-1) is better.

    ``is_difference`` metrics are shown in points with a sign, others in percent. ``in_comparison`` columns stand in the
    side-by-side table and in LaTeX; CSV and the details hold all.
    """

    key: str
    name: str
    measure: Callable[[Experiment], Estimate | float | None]
    better: int
    words: str
    is_difference: bool = False
    in_comparison: bool = False


def _of_matrix(
    function: Callable[[SuccessMatrix], Estimate | float | None],
) -> Callable[[Experiment], Estimate | float | None]:
    return lambda experiment: None if experiment.matrix is None else function(experiment.matrix)


def libero_curves(experiment: Experiment) -> dict[int, list[float]] | None:
    """Success on each learnt task while it was learnt: before, at ``runner.val_check_interval``, and after.

    None unless every learnt task was learnt alone and evaluated at least ``MIN_CURVE`` times.
    """
    matrix = experiment.matrix
    if matrix is None or not matrix.learnt_tasks:
        return None
    curves = {}
    for run in experiment.training:
        if len(run.tasks) != 1 or run.tasks[0] not in matrix.learnt_tasks:
            continue
        marks = [rate for _, rate in evaluations_in_training(experiment, run)]
        if len(marks) >= MIN_CURVE:
            curves[run.tasks[0]] = marks
    return curves if set(curves) == set(matrix.learnt_tasks) else None


def evaluations_in_training(experiment: Experiment, run: TrainingRun) -> list[tuple[float, float]]:
    """(epoch, success) on a run's tasks: before its first epoch, after its last, and in between where logged."""
    matrix = experiment.matrix
    marks: dict[float, float] = {}
    if matrix is not None and run.tasks and all(task in matrix.learnt_tasks for task in run.tasks):
        own = matrix.own_row(run.tasks[0])
        for epoch, row in ((0.0, own - 1), (float(len(run.epochs)), own)):
            if row >= 0:
                marks[epoch] = sum(matrix.success(row, task) for task in run.tasks) / len(run.tasks)
    logged: dict[float, list[float]] = {}
    for task in run.tasks:
        for epoch, rate in run.series(f"eval/env_info/task_{task}_success"):
            logged.setdefault(epoch, []).append(rate)
    for epoch, rates in logged.items():
        if len(rates) == len(run.tasks) and 0 <= epoch <= len(run.epochs):
            marks.setdefault(epoch, sum(rates) / len(rates))
    return sorted(marks.items())


def _speed(experiment: Experiment) -> float | None:
    curves = libero_curves(experiment)
    return None if curves is None else metrics.libero_forward_transfer(curves)


def _auc(experiment: Experiment) -> float | None:
    curves = libero_curves(experiment)
    return None if curves is None or experiment.matrix is None else metrics.libero_auc(experiment.matrix, curves)


COLUMNS: tuple[Column, ...] = (
    Column(
        key="base",
        name="Base",
        measure=_of_matrix(metrics.base_success),
        better=0,
        words="base model on the tasks learnt later",
        in_comparison=True,
    ),
    Column(
        key="avg",
        name="AVG",
        measure=_of_matrix(metrics.average_success),
        better=1,
        words="mean success on the learnt tasks after the last one",
        in_comparison=True,
    ),
    Column(
        key="improvement",
        name="Improvement",
        measure=_of_matrix(metrics.improvement),
        better=1,
        words="AVG minus the base model on the same tasks",
        is_difference=True,
    ),
    Column(
        key="plasticity",
        name="Plasticity",
        measure=_of_matrix(metrics.plasticity),
        better=1,
        words="mean success on each task right after learning it",
        in_comparison=True,
    ),
    Column(
        key="nbt",
        name="NBT",
        measure=_of_matrix(metrics.nbt_final),
        better=-1,
        words="forgetting: right after learning minus at the end (arXiv:2603.11653)",
        is_difference=True,
        in_comparison=True,
    ),
    Column(
        key="nbt_libero",
        name="NBT (LIBERO)",
        measure=_of_matrix(metrics.nbt_libero),
        better=-1,
        words="right after learning minus the mean over all later rows (arXiv:2306.03310)",
        is_difference=True,
    ),
    Column(
        key="bwt",
        name="BWT",
        measure=_of_matrix(metrics.backward_transfer),
        better=1,
        words="the negative of NBT (GEM, arXiv:1706.08840)",
        is_difference=True,
    ),
    Column(
        key="fwt",
        name="FWT",
        measure=_of_matrix(metrics.forward_transfer),
        better=1,
        words="just before a task’s own training minus base (GEM)",
        is_difference=True,
        in_comparison=True,
    ),
    Column(
        key="forgetting",
        name="Forgetting",
        measure=_of_matrix(metrics.forgetting),
        better=-1,
        words="best earlier success minus the final one (arXiv:1801.10112)",
        is_difference=True,
    ),
    Column(
        key="forgetting_mammoth",
        name="Forgetting (Mammoth)",
        measure=_of_matrix(metrics.forgetting_mammoth),
        better=-1,
        words="best success since a task was learnt minus the final one; never below zero",
        is_difference=True,
    ),
    Column(
        key="zero_shot",
        name="Zero-shot",
        measure=_of_matrix(metrics.zero_shot_success),
        better=1,
        words="mean final success on tasks never trained on",
        in_comparison=True,
    ),
    Column(
        key="zero_shot_change",
        name="Zero-shot change",
        measure=_of_matrix(metrics.zero_shot_change),
        better=1,
        words="Zero-shot minus the base model on these tasks",
        is_difference=True,
    ),
    Column(
        key="libero_fwt",
        name="FWT (LIBERO)",
        measure=_speed,
        better=1,
        words="mean success while learning a task; needs runner.val_check_interval (arXiv:2306.03310)",
    ),
    Column(
        key="auc",
        name="AUC (LIBERO)",
        measure=_auc,
        better=1,
        words="FWT (LIBERO) and later success in one; needs runner.val_check_interval (arXiv:2306.03310)",
    ),
)
