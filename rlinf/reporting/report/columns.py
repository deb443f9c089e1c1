"""The metrics that tables show: one list for HTML, LaTeX and CSV, so that they cannot tell different stories."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from libero_runtime.suites import PERTURBATIONS
from rlinf.reporting import metrics
from rlinf.reporting.metrics import Estimate, SuccessMatrix
from rlinf.reporting.report.collect import Experiment, TrainingRun
from rlinf.reporting.report.names import further_name, percent, points

COMPARED = ("base", "avg", "plasticity", "nbt", "fwt", "zero_shot")
"""Stand side by side, in LaTeX too: the most told by the fewest numbers. CSV and the details hold all."""
MIN_CURVE = 3  # fewer evaluations while a task is learnt are no learning curve (before and after make two)

Measured = Estimate | float | None


@dataclass(frozen=True)
class Column:
    """One metric: its names, how it is measured, whether more (+1) or less (-1) is better.

    ``is_difference`` metrics are shown in points with a sign, others in percent.
    """

    key: str
    name: str
    measure: Callable[[Experiment], Measured]
    definition: str
    better: int = 1
    is_difference: bool = False

    def show(self, value: float) -> str:
        """A value as the page writes it."""
        return points(value) if self.is_difference else percent(value)


def _of(metric: Callable[[SuccessMatrix], Measured]) -> Callable[[Experiment], Measured]:
    return lambda experiment: None if experiment.matrix is None else metric(experiment.matrix)


def _libero_speed(experiment: Experiment) -> float | None:
    curves = libero_curves(experiment)
    return None if curves is None else metrics.libero_forward_transfer(curves)


def _libero_auc(experiment: Experiment) -> float | None:
    curves = libero_curves(experiment)
    return None if curves is None or experiment.matrix is None else metrics.libero_auc(experiment.matrix, curves)


COLUMNS = (
    Column("base", "Base", _of(metrics.base_success), "base model on the tasks learnt later", 0),
    Column("avg", "AVG", _of(metrics.average_success), "mean success on the learnt tasks after the last one"),
    Column(
        "improvement", "Improvement", _of(metrics.improvement),
        "AVG minus the base model on the same tasks", 1, True,
    ),
    Column("plasticity", "Plasticity", _of(metrics.plasticity), "mean success on each task right after learning it"),
    Column(
        "nbt", "NBT", _of(metrics.nbt_final),
        "forgetting: right after learning minus at the end (arXiv:2603.11653)", -1, True,
    ),
    Column(
        "nbt_libero", "NBT (LIBERO)", _of(metrics.nbt_libero),
        "right after learning minus the mean over all later rows (arXiv:2306.03310)", -1, True,
    ),
    Column("bwt", "BWT", _of(metrics.backward_transfer), "the negative of NBT (GEM, arXiv:1706.08840)", 1, True),
    Column("fwt", "FWT", _of(metrics.forward_transfer), "just before a task’s own training minus base (GEM)", 1, True),
    Column(
        "forgetting", "Forgetting", _of(metrics.forgetting),
        "best earlier success minus the final one (arXiv:1801.10112)", -1, True,
    ),
    Column(
        "forgetting_mammoth", "Forgetting (Mammoth)", _of(metrics.forgetting_mammoth),
        "best success since a task was learnt minus the final one; never below zero", -1, True,
    ),
    Column("zero_shot", "Zero-shot", _of(metrics.zero_shot_success), "mean final success on tasks never trained on"),
    Column(
        "zero_shot_change", "Zero-shot change", _of(metrics.zero_shot_change),
        "Zero-shot minus the base model on these tasks", 1, True,
    ),
    Column(
        "libero_fwt", "FWT (LIBERO)", _libero_speed,
        "mean success while learning a task; needs runner.val_check_interval (arXiv:2306.03310)",
    ),
    Column(
        "auc", "AUC (LIBERO)", _libero_auc,
        "FWT (LIBERO) and later success in one; needs runner.val_check_interval (arXiv:2306.03310)",
    ),
)  # fmt: skip


# ------------------------------------------------------------------------------------------------ further suites


def further_suites(experiments: Iterable[Experiment]) -> tuple[str, ...]:
    """Further suites that any of these was evaluated on, in the order of ``PERTURBATIONS``, then others."""
    suites = dict.fromkeys(suite for one in experiments for suite in one.further)
    changes = list(PERTURBATIONS)
    return tuple(sorted(suites, key=lambda suite: next((changes.index(c) for c in changes if suite.endswith(c)), 9)))


def suite_column(suite: str, learnt_suite: str, stage: int | None = None) -> Column:
    """Mean success over a suite's tasks after one stage; None: at the end."""
    name = further_name(suite, learnt_suite)
    return Column(
        key=suite if stage is None else f"{suite}_stage_{stage}",
        name=name[:1].upper() + name[1:],  # names of suites keep their capitals
        measure=lambda experiment: _suite_success(experiment, suite, stage),
        definition=f"mean success on {suite} {'at the end' if stage is None else f'after stage {stage}'}",
    )


def stage_columns(experiments: Sequence[Experiment]) -> tuple[Column, ...]:
    """Of each further suite its success after each stage; stage 0 is the first row, as a rule the base model."""
    count = max((len(one.matrix.stages) for one in experiments if one.matrix is not None), default=0)
    return tuple(suite_column(suite, "", stage) for suite in further_suites(experiments) for stage in range(count))


def _suite_success(experiment: Experiment, suite: str, stage: int | None) -> Estimate | None:
    matrix = experiment.matrix
    if matrix is None or (stage is not None and stage >= len(matrix.stages)):
        return None
    row = matrix.last_row if stage is None else stage
    if suite == experiment.suite:
        return mean_success(matrix.success_RK[row], matrix.episodes_RK[row])
    learnt, of_suite = matrix.learnt_by(row), experiment.further.get(suite, ())
    record = next((one for one in of_suite if one.learnt_tasks == learnt), None)
    if record is None:
        return None
    tasks = sorted(record.success)
    return mean_success([record.success[task] for task in tasks], [record.episodes[task] for task in tasks])


def mean_success(success_K: Sequence[float] | np.ndarray, episodes_K: Sequence[int] | np.ndarray) -> Estimate | None:
    """Mean over tasks, with its interval."""
    one_row = SuccessMatrix(tuple(range(len(success_K))), ((),), np.array([success_K]), np.array([episodes_K]))
    return metrics.base_success(one_row)


# ---------------------------------------------------------------------------------------------- while a task is learnt


def libero_curves(experiment: Experiment) -> dict[int, list[float]] | None:
    """Success on each learnt task while it was learnt: before, at ``runner.val_check_interval``, and after.

    None unless every learnt task was learnt alone and evaluated at least ``MIN_CURVE`` times.
    """
    matrix = experiment.matrix
    if matrix is None or not matrix.learnt_tasks:
        return None
    curves = {}
    for run in experiment.training:
        if len(run.tasks) == 1 and run.tasks[0] in matrix.learnt_tasks:
            rates = [rate for _, rate in evaluations_in_training(experiment, run)]
            if len(rates) >= MIN_CURVE:
                curves[run.tasks[0]] = rates
    return curves if set(curves) == set(matrix.learnt_tasks) else None


def evaluations_in_training(experiment: Experiment, run: TrainingRun) -> list[tuple[float, float]]:
    """(epoch, success) on a run's tasks: before its first epoch, after its last, and in between where logged."""
    matrix = experiment.matrix
    found: dict[float, float] = {}
    if matrix is not None and run.tasks and all(task in matrix.learnt_tasks for task in run.tasks):
        own = matrix.own_row(run.tasks[0])
        for epoch, row in ((0.0, own - 1), (float(len(run.epochs)), own)):
            if row >= 0:
                found[epoch] = sum(matrix.success(row, task) for task in run.tasks) / len(run.tasks)
    logged: dict[float, list[float]] = {}
    for task in run.tasks:
        for epoch, rate in run.series(f"eval/env_info/task_{task}_success"):
            logged.setdefault(epoch, []).append(rate)
    for epoch, rates in logged.items():
        if len(rates) == len(run.tasks) and 0 <= epoch <= len(run.epochs):
            found.setdefault(epoch, sum(rates) / len(rates))
    return sorted(found.items())
