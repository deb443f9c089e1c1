"""Continual-learning metrics against the definitions of LIBERO and Mammoth, written down a second time from their text.

The references below take plain nested lists and zero-based tasks in learning order, as those projects do, and share no
code with ``rlinf.reporting.metrics``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from rlinf.reporting import metrics
from rlinf.reporting.metrics import SuccessMatrix

Table = Sequence[Sequence[float]]

# Rows: after task 1, 2, 3, 4. Columns: tasks in learning order. Row 0 of the matrix, the base model, is kept apart.
BASE = (0.10, 0.20, 0.15, 0.30)
FORGETS: Table = (
    (0.80, 0.25, 0.10, 0.35),
    (0.70, 0.90, 0.20, 0.30),
    (0.60, 0.75, 0.85, 0.40),
    (0.40, 0.70, 0.55, 0.95),
)
IMPROVES: Table = (
    (0.50, 0.60, 0.10, 0.35),
    (0.60, 0.55, 0.20, 0.30),
    (0.65, 0.50, 0.70, 0.40),
    (0.75, 0.65, 0.72, 0.80),
)
CURVES = {0: (0.1, 0.5, 0.9, 0.8), 1: (0.25, 0.9), 2: (0.2, 0.9, 0.7, 0.9, 0.85), 3: (0.4, 0.4, 0.95)}


def matrix_of(table: Table) -> SuccessMatrix:
    success_RK = np.array([BASE, *table])
    return SuccessMatrix(
        tasks=(0, 1, 2, 3),
        stages=((), (0,), (1,), (2,), (3,)),
        success_RK=success_RK,
        episodes_RK=np.full(success_RK.shape, 50, dtype=np.int64),
    )


def value(estimate: metrics.Estimate | float | None) -> float:
    assert estimate is not None
    return estimate.value if isinstance(estimate, metrics.Estimate) else estimate


def libero_nbt(table: Table) -> float:
    """arXiv:2306.03310, section 5.1, equation for NBT_k, averaged over the tasks that have a later one."""
    last = len(table)
    per_task = []
    for k in range(1, last):  # the paper counts from 1
        drops = [table[k - 1][k - 1] - table[tau - 1][k - 1] for tau in range(k + 1, last + 1)]
        per_task.append(sum(drops) / (last - k))
    return sum(per_task) / len(per_task)


def libero_auc(table: Table, curves: dict[int, Sequence[float]]) -> float:
    """arXiv:2306.03310, section 5.1: AUC_k = (FWT_k + sum over later tasks of the success on k) / (K - k + 1)."""
    last = len(table)
    per_task = []
    for k in range(1, last + 1):
        speed = sum(curves[k - 1]) / len(curves[k - 1])
        later = sum(table[tau - 1][k - 1] for tau in range(k + 1, last + 1))
        per_task.append((speed + later) / (last - k + 1))
    return sum(per_task) / last


def mammoth_bwt(table: Table) -> float:
    """Mammoth's backward_transfer: final minus own, mean over all but the last task."""
    last = len(table) - 1
    return sum(table[last][i] - table[i][i] for i in range(last)) / last


def mammoth_fwt(table: Table, start: Sequence[float]) -> float:
    """Mammoth's forward_transfer: the row before a task's own one minus the untrained network, without the first."""
    count = len(table)
    return sum(table[i - 1][i] - start[i] for i in range(1, count)) / (count - 1)


def mammoth_forgetting(table: Table) -> float:
    """Mammoth's forgetting: row i knows tasks 0 to i (zeros fill it up); column maximum minus the last row."""
    count = len(table)
    known = [[table[row][column] if column <= row else 0.0 for column in range(count)] for row in range(count)]
    drops = [max(row[column] for row in known) - known[-1][column] for column in range(count - 1)]
    return sum(drops) / len(drops)


@pytest.mark.parametrize("table", [FORGETS, IMPROVES])
def test_values_agree_with_both_projects(table: Table) -> None:
    m = matrix_of(table)
    assert value(metrics.nbt_libero(m)) == pytest.approx(libero_nbt(table))
    assert value(metrics.average_success(m)) == pytest.approx(sum(table[-1]) / 4)
    assert value(metrics.backward_transfer(m)) == pytest.approx(mammoth_bwt(table))
    assert value(metrics.nbt_final(m)) == pytest.approx(-mammoth_bwt(table))
    assert value(metrics.forward_transfer(m)) == pytest.approx(mammoth_fwt(table, BASE))
    assert value(metrics.forgetting_mammoth(m)) == pytest.approx(mammoth_forgetting(table))
    assert metrics.libero_auc(m, CURVES) == pytest.approx(libero_auc(table, CURVES))


def test_the_two_conventions_of_forgetting_part_when_later_tasks_help() -> None:
    m = matrix_of(IMPROVES)
    # Tasks 0, 1, 2 end above all earlier rows: Mammoth's maximum includes the end, Chaudhry's does not.
    assert metrics.forgetting_mammoth(m) == pytest.approx(0.0)
    assert metrics.forgetting(m) == pytest.approx((-0.10 + -0.05 + -0.02) / 3)


def test_a_different_task_order_gives_the_same_numbers() -> None:
    """Columns are tasks by id, rows follow the order of learning: relabelling tasks must change nothing."""
    order = (2, 0, 3, 1)  # learnt first: task 2
    success_RK = np.zeros((5, 4))
    for place, task in enumerate(order):
        success_RK[:, task] = np.array([BASE, *FORGETS])[:, place]
    m = SuccessMatrix(
        tasks=(0, 1, 2, 3),
        stages=((), *((task,) for task in order)),
        success_RK=success_RK,
        episodes_RK=np.full((5, 4), 50, dtype=np.int64),
    )
    for of in (metrics.average_success, metrics.plasticity, metrics.nbt_final, metrics.nbt_libero, metrics.forgetting,
               metrics.forward_transfer, metrics.forgetting_mammoth):  # fmt: skip
        assert value(of(m)) == pytest.approx(value(of(matrix_of(FORGETS)))), of.__name__
