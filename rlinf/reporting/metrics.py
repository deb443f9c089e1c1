"""Continual-learning metrics of a success matrix, with confidence intervals.

Legend: R rows (row 0 is the base model, then one row per learning stage), K tasks (columns). ``S[r, k]`` is the success
rate on task ``k`` of the policy of row ``r``. A task's *own row* is the row right after it was learnt.

Sources of the definitions:

- LIBERO, arXiv:2306.03310, section 5.1: FWT, NBT and AUC.
- Gradient Episodic Memory (GEM), arXiv:1706.08840, equations 2 to 4: ACC, BWT and FWT.
- Riemannian Walk, Chaudhry et al., arXiv:1801.10112, section 5: forgetting.
- Mammoth, github.com/aimagelab/mammoth, utils/metrics.py: BWT, FWT and forgetting as most tables compute them.
- Hu et al., arXiv:2603.11653, appendix B: AVG, NBT (final only), FWT and zero-shot success for VLA models.
- Intervals: Wilson, JASA 1927, for one cell; the MOVER of Zou and Donner, Statistics in Medicine 2008 (27:1693), for
  weighted sums of cells, of which Newcombe's interval for a difference of two proportions is a special case.

Almost every metric is a weighted sum of the cells. It is written here as such a weight matrix, so that value and
interval come from the same formula. A metric that the data cannot tell (NBT after one task) is ``None``, never zero.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from rlinf.reporting import ReportingError

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A number with its confidence interval, ``low <= value <= high`` in the unit of the value; None: there is none.

    seeds: over which it is a mean.
    """

    value: float
    low: float | None = None
    high: float | None = None
    seeds: int = 1


@dataclass(frozen=True)
class SuccessMatrix:
    """Success rate of every task after every learning stage.

    ``stages[r]`` are the tasks that became learnt with row ``r``: ``()`` for the base model, one task for sequential
    methods, several for joint training. Without an evaluation of the base model the matrix starts at the first stage,
    and what needs the base is ``None``. Rates and counts were checked when they were recorded.
    """

    tasks: tuple[int, ...]
    stages: tuple[tuple[int, ...], ...]
    success_RK: NDArray[np.float64]
    episodes_RK: NDArray[np.int64]

    def __post_init__(self) -> None:
        if missing := sorted(set(self.learnt_tasks) - set(self.tasks)):
            raise ReportingError(f"learnt tasks {missing} have no column; evaluated tasks: {list(self.tasks)}")

    @property
    def has_base(self) -> bool:
        """True when row 0 is the base model."""
        return not self.stages[0]

    @property
    def learnt_tasks(self) -> tuple[int, ...]:
        """Learnt tasks in the order they were learnt."""
        return self.learnt_by(self.last_row)

    def learnt_by(self, row: int) -> tuple[int, ...]:
        """Tasks that the policy of a row has learnt, in that order."""
        return tuple(task for stage in self.stages[: row + 1] for task in stage)

    @property
    def held_out_tasks(self) -> tuple[int, ...]:
        """Evaluated tasks that were never trained on."""
        learnt = set(self.learnt_tasks)
        return tuple(task for task in self.tasks if task not in learnt)

    def column(self, task: int) -> int:
        """Column index of a task."""
        return self.tasks.index(task)

    @property
    def last_row(self) -> int:
        """Row of the policy after the last stage."""
        return len(self.stages) - 1

    def own_row(self, task: int) -> int:
        """Row of the policy right after a learnt task was learnt."""
        return next(row for row, stage in enumerate(self.stages) if task in stage)

    @property
    def earlier_tasks(self) -> tuple[int, ...]:
        """Learnt tasks that a later stage follows: they can have been forgotten."""
        return self.learnt_by(self.last_row - 1)

    def success(self, row: int, task: int) -> float:
        """Success rate of one cell."""
        return float(self.success_RK[row, self.column(task)])


def wilson_interval(success_rate: float, episodes: float) -> tuple[float, float]:
    """Wilson score interval of a success rate measured over ``episodes`` independent episodes.

    ``(p + z^2/2n +- z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n)``: unlike the normal interval it stays inside 0..1
    and is honest at 0 and 1.
    """
    z = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2)
    scale = 1 + z * z / episodes
    center = (success_rate + z * z / (2 * episodes)) / scale
    half = z * math.sqrt(success_rate * (1 - success_rate) / episodes + (z / (2 * episodes)) ** 2) / scale
    # Rounding must not push a bound past the measured rate (at 0 and 1 they coincide).
    return max(0.0, min(center - half, success_rate)), min(1.0, max(center + half, success_rate))


def weighted_sum(matrix: SuccessMatrix, weights_RK: NDArray[np.float64]) -> Estimate:
    """``sum(weights * success)`` with its MOVER interval from the cells' Wilson intervals.

    Cells are taken as independent. Rows evaluated on the same initial states are positively correlated, so intervals
    of differences (NBT, FWT) come out a little too wide rather than too narrow.
    """
    value = float(np.sum(weights_RK * matrix.success_RK))
    below = above = 0.0
    for row, column in zip(*np.nonzero(weights_RK), strict=True):
        weight, rate = float(weights_RK[row, column]), float(matrix.success_RK[row, column])
        low, high = wilson_interval(rate, float(matrix.episodes_RK[row, column]))
        ends = (weight * (rate - low), weight * (high - rate))
        down, up = ends if weight > 0 else (-ends[1], -ends[0])
        below += down * down
        above += up * up
    return Estimate(value, value - math.sqrt(below), value + math.sqrt(above))


def average_success(matrix: SuccessMatrix) -> Estimate | None:
    """AVG: mean over the learnt tasks of the success after the last one.

    ``AVG = 1/T sum_j S[T, j]``; ACC of GEM and AVG of arXiv:2603.11653. ``None`` when nothing was learnt.
    """
    return _mean(matrix, [(matrix.last_row, task) for task in matrix.learnt_tasks])


def base_success(matrix: SuccessMatrix) -> Estimate | None:
    """Mean success of the base model on the tasks that are learnt later (on all tasks when none is)."""
    return _mean(matrix, [(0, task) for task in matrix.learnt_tasks or matrix.tasks]) if matrix.has_base else None


def plasticity(matrix: SuccessMatrix) -> Estimate | None:
    """Mean success on each task right after learning it: ``1/T sum_j S[j, j]`` ("learning accuracy")."""
    return _mean(matrix, [(matrix.own_row(task), task) for task in matrix.learnt_tasks])


def nbt_final(matrix: SuccessMatrix) -> Estimate | None:
    """Negative backward transfer, final only; positive is forgetting.

    ``NBT = 1/(T-1) sum_{j<T} (S[j, j] - S[T, j])`` (arXiv:2603.11653). The tasks of the last stage cannot have been
    forgotten yet and are left out. ``None`` with fewer than two stages.
    """
    tasks = matrix.earlier_tasks
    return _mean(matrix, [(matrix.own_row(task), task) for task in tasks], [(matrix.last_row, task) for task in tasks])


def nbt_libero(matrix: SuccessMatrix) -> Estimate | None:
    """Negative backward transfer as in LIBERO (arXiv:2306.03310): the drop averaged over *all* later tasks.

    ``NBT_j = 1/(T-j) sum_{r=j+1..T} (S[j, j] - S[r, j])``, then the mean over the T-1 tasks that have a later one.
    (LIBERO's text divides by T although NBT of the last task is an empty mean.) ``None`` with fewer than two stages.
    """
    if not (earlier := matrix.earlier_tasks):
        return None
    weights_RK = np.zeros_like(matrix.success_RK)
    for task in earlier:
        own, column = matrix.own_row(task), matrix.column(task)
        weights_RK[own, column] += 1 / len(earlier)
        weights_RK[own + 1 :, column] -= 1 / (len(earlier) * (matrix.last_row - own))
    return weighted_sum(matrix, weights_RK)


def backward_transfer(matrix: SuccessMatrix) -> Estimate | None:
    """BWT of GEM (arXiv:1706.08840) and Mammoth: ``1/(T-1) sum_{j<T} (S[T, j] - S[j, j])``, minus ``nbt_final``."""
    tasks = matrix.earlier_tasks
    return _mean(matrix, [(matrix.last_row, task) for task in tasks], [(matrix.own_row(task), task) for task in tasks])


def forward_transfer(matrix: SuccessMatrix) -> Estimate | None:
    """FWT: what learning the earlier tasks did for a task before it was trained itself.

    ``FWT = 1/(T-1) sum_{j=2..T} (S[j-1, j] - S[0, j])``: GEM's formula (arXiv:1706.08840, equation 4; Mammoth's
    ``forward_transfer``) with the base model's measured success in place of a random network's, as a pretrained policy
    starts above chance. ``None`` without a base row or with fewer than two stages.
    """
    if not matrix.has_base:
        return None
    tasks = [task for task in matrix.learnt_tasks if matrix.own_row(task) > 1]
    return _mean(matrix, [(matrix.own_row(task) - 1, task) for task in tasks], [(0, task) for task in tasks])


def forgetting(matrix: SuccessMatrix) -> float | None:
    """Forgetting of Chaudhry et al. (arXiv:1801.10112): best earlier success minus the final one.

    ``F = 1/(T-1) sum_{j<T} (max_{r<T} S[r, j] - S[T, j])``, with the maximum over the rows of trained policies. It is
    no weighted sum and biased upwards by evaluation noise (a maximum of noisy numbers), so it has no interval.
    """
    return _mean_drop(matrix, lambda task: range(1 if matrix.has_base else 0, matrix.last_row))


def forgetting_mammoth(matrix: SuccessMatrix) -> float | None:
    """Forgetting as Mammoth computes it: never below zero.

    ``F = 1/(T-1) sum_{j<T} (max_{j<=r<=T} S[r, j] - S[T, j])``: the maximum runs over the rows from the task's own one
    on (Mammoth pads what came before with zeros) and includes the last, so a task that ends at its best counts zero
    where ``forgetting`` counts the gain.
    """
    return _mean_drop(matrix, lambda task: range(matrix.own_row(task), len(matrix.stages)))


def _mean_drop(matrix: SuccessMatrix, rows_of: Callable[[int], range]) -> float | None:
    """Mean over the tasks before the last stage of their best success in ``rows_of(task)`` minus the final one."""
    drops = [
        max(matrix.success(row, task) for row in rows_of(task)) - matrix.success(matrix.last_row, task)
        for task in matrix.earlier_tasks
    ]
    return float(np.mean(drops)) if drops else None


def zero_shot_success(matrix: SuccessMatrix) -> Estimate | None:
    """ZS: mean success on tasks never trained on, after the last stage (arXiv:2603.11653); ``None`` without any."""
    return _mean(matrix, [(matrix.last_row, task) for task in matrix.held_out_tasks])


def zero_shot_change(matrix: SuccessMatrix) -> Estimate | None:
    """Zero-shot success minus the base model's on the same held-out tasks."""
    return _change(matrix, matrix.held_out_tasks) if matrix.last_row > 0 else None


def improvement(matrix: SuccessMatrix) -> Estimate | None:
    """AVG minus the base model's success on the same tasks."""
    return _change(matrix, matrix.learnt_tasks)


def libero_forward_transfer(curves: Mapping[int, Sequence[float]]) -> float:
    """FWT as LIBERO defines it: how fast tasks are learnt.

    ``FWT_k`` is the mean success on task ``k`` over the evaluations made *while* learning it (LIBERO: epochs 0, 5,
    ..., 50), ``FWT`` the mean over tasks. ``curves[k]`` holds those success rates in order. LIBERO's code goes on with
    the best checkpoint of a task and counts every later evaluation as that peak; our runs go on with the last one.
    """
    return float(np.mean([np.mean(curve) for curve in curves.values()]))


def libero_auc(matrix: SuccessMatrix, curves: Mapping[int, Sequence[float]]) -> float:
    """AUC of LIBERO: ``AUC_k = (FWT_k + sum_{r>k} S[r, k]) / (T - k + 1)``, then the mean over learnt tasks."""
    areas = []
    for task in matrix.learnt_tasks:
        later = matrix.success_RK[matrix.own_row(task) + 1 :, matrix.column(task)]
        areas.append((float(np.mean(curves[task])) + float(later.sum())) / (1 + len(later)))
    return float(np.mean(areas))


def over_seeds(measured: Sequence[Estimate | float | None]) -> Estimate | None:
    """Mean of one metric over independent seeds with Student's 95 % interval; one alone keeps its own. None of none.

    The quantile is that of ``scipy.stats.t``, whose module takes a second to import.
    """
    found = [one if isinstance(one, Estimate) else Estimate(one) for one in measured if one is not None]
    if len(found) < 2:
        return found[0] if found else None
    values = [one.value for one in found]
    quantile = round(float(stdtrit(len(values) - 1, 0.5 + CONFIDENCE / 2)), 3)  # as printed tables have it
    mean = float(np.mean(values))
    half = quantile * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return Estimate(mean, mean - half, mean + half, len(values))


Cell = tuple[int, int]  # (row, task id)


def _mean(matrix: SuccessMatrix, plus: Sequence[Cell], minus: Sequence[Cell] = ()) -> Estimate | None:
    """Mean of cells, minus that of as many others; ``None`` of none."""
    if not plus:
        return None
    weights_RK = np.zeros_like(matrix.success_RK)
    for sign, cells in ((1, plus), (-1, minus)):
        for row, task in cells:
            weights_RK[row, matrix.column(task)] += sign / len(plus)
    return weighted_sum(matrix, weights_RK)


def _change(matrix: SuccessMatrix, tasks: Sequence[int]) -> Estimate | None:
    """Success on tasks after the last stage, minus the base model's; ``None`` where that was not evaluated."""
    last, first = [(matrix.last_row, task) for task in tasks], [(0, task) for task in tasks]
    return _mean(matrix, last, first) if matrix.has_base else None
