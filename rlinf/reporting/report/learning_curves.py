"""Success while a task is learnt, from what evaluations and training logs tell."""

from __future__ import annotations

from rlinf.reporting.report.collect import Experiment, TrainingRun

# Fewer evaluations while a task is learnt than this are no learning curve (before and after make two).
MIN_CURVE = 3


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
