"""Continual-learning metrics against matrices worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from rlinf.reporting import ReportingError, metrics
from rlinf.reporting.metrics import SuccessMatrix


def matrix_of(
    rows: Sequence[Sequence[float]],
    *,
    stages: Sequence[tuple[int, ...]],
    tasks: Sequence[int] | None = None,
    episodes: int = 50,
) -> SuccessMatrix:
    success_RK = np.array(rows, dtype=np.float64)
    return SuccessMatrix(
        tasks=tuple(tasks if tasks is not None else range(success_RK.shape[1])),
        stages=tuple(stages),
        success_RK=success_RK,
        episodes_RK=np.full(success_RK.shape, episodes, dtype=np.int64),
    )


@pytest.fixture
def three_tasks() -> SuccessMatrix:
    """Learnt in the order 1, 0, 2; tasks 3 and 4 are held out."""
    return matrix_of(
        [
            # 0    1    2    3    4
            [0.2, 0.3, 0.1, 0.5, 0.6],
            [0.3, 0.8, 0.2, 0.5, 0.5],
            [0.9, 0.7, 0.3, 0.4, 0.6],
            [0.6, 0.5, 0.7, 0.4, 0.8],
        ],
        stages=[(), (1,), (0,), (2,)],
    )


def value(estimate: metrics.Estimate | None) -> float:
    assert estimate is not None
    assert estimate.low <= estimate.value <= estimate.high
    return estimate.value


def test_values_worked_out_by_hand(three_tasks: SuccessMatrix) -> None:
    m = three_tasks
    assert m.learnt_tasks == (1, 0, 2)
    assert m.held_out_tasks == (3, 4)
    assert value(metrics.average_success(m)) == pytest.approx((0.6 + 0.5 + 0.7) / 3)
    assert value(metrics.base_success(m)) == pytest.approx((0.2 + 0.3 + 0.1) / 3)
    assert value(metrics.improvement(m)) == pytest.approx(0.4)
    assert value(metrics.plasticity(m)) == pytest.approx((0.8 + 0.9 + 0.7) / 3)
    # task 1: 0.8 -> 0.5, task 0: 0.9 -> 0.6
    assert value(metrics.nbt_final(m)) == pytest.approx(0.3)
    # task 1: mean(0.8 - 0.7, 0.8 - 0.5) = 0.2; task 0: 0.9 - 0.6 = 0.3
    assert value(metrics.nbt_libero(m)) == pytest.approx(0.25)
    assert value(metrics.backward_transfer(m)) == pytest.approx(-0.3)
    # task 0 before its training: 0.3 - 0.2; task 2: 0.3 - 0.1
    assert value(metrics.forward_transfer(m)) == pytest.approx(0.15)
    assert metrics.forgetting(m) == pytest.approx(0.3)
    assert value(metrics.zero_shot_success(m)) == pytest.approx(0.6)
    assert value(metrics.zero_shot_change(m)) == pytest.approx(0.05)


def test_forgetting_counts_from_the_peak_not_from_the_own_row() -> None:
    m = matrix_of([[0.0, 0.0, 0.0], [0.5, 0.9, 0.0], [0.8, 0.6, 0.0], [0.4, 0.6, 0.1]], stages=[(), (0,), (1,), (2,)])
    # task 0 peaks at 0.8 in the second row, task 1 already at 0.9 before its own training
    assert metrics.forgetting(m) == pytest.approx(((0.8 - 0.4) + (0.9 - 0.6)) / 2)
    assert value(metrics.nbt_final(m)) == pytest.approx(((0.5 - 0.4) + (0.6 - 0.6)) / 2)


def test_published_example_of_the_vla_convention() -> None:
    """Four sequential tasks with published AVG 0.365, NBT 0.010, FWT 0.022 (a SmolVLA study after arXiv:2603.11653)."""
    m = matrix_of(
        [
            [0.394, 0.404, 0.365, 0.163],
            [0.490, 0.433, 0.375, 0.163],
            [0.471, 0.471, 0.356, 0.212],
            [0.519, 0.481, 0.298, 0.212],
            [0.404, 0.471, 0.356, 0.231],
        ],
        stages=[(), (0,), (1,), (2,), (3,)],
    )
    assert value(metrics.average_success(m)) == pytest.approx(0.365, abs=1e-3)
    assert value(metrics.nbt_final(m)) == pytest.approx(0.010, abs=1e-3)
    assert value(metrics.forward_transfer(m)) == pytest.approx(0.022, abs=1.5e-3)


def test_what_the_data_cannot_tell_is_none() -> None:
    base_only = matrix_of([[0.2, 0.4]], stages=[()])
    assert metrics.average_success(base_only) is None
    assert value(metrics.base_success(base_only)) == pytest.approx(0.3)
    assert value(metrics.zero_shot_success(base_only)) == pytest.approx(0.3)
    assert metrics.zero_shot_change(base_only) is None
    one = matrix_of([[0.2, 0.4], [0.6, 0.4]], stages=[(), (0,)])
    assert value(metrics.improvement(one)) == pytest.approx(0.4)
    for undefined in (metrics.nbt_final, metrics.nbt_libero, metrics.forward_transfer, metrics.forgetting):
        assert undefined(one) is None
    no_base = matrix_of([[0.6, 0.4], [0.5, 0.7]], stages=[(0,), (1,)])
    assert value(metrics.nbt_final(no_base)) == pytest.approx(0.1)
    assert metrics.forward_transfer(no_base) is None
    assert metrics.improvement(no_base) is None


def test_joint_training_has_an_average_but_no_forgetting() -> None:
    joint = matrix_of([[0.2, 0.4, 0.1], [0.6, 0.8, 0.2]], stages=[(), (0, 1)])
    assert value(metrics.average_success(joint)) == pytest.approx(0.7)
    assert value(metrics.zero_shot_success(joint)) == pytest.approx(0.2)
    assert metrics.nbt_final(joint) is None
    assert metrics.forward_transfer(joint) is None


def test_wilson_interval_against_published_numbers() -> None:
    # Newcombe 1998, table I: 81 of 263, 15 of 148, 0 of 20 (95 %, without continuity correction)
    assert metrics.wilson_interval(81 / 263, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert metrics.wilson_interval(15 / 148, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    assert metrics.wilson_interval(0.0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
    low, high = metrics.wilson_interval(1.0, 8)
    assert 0.6 < low < high == 1.0


def test_interval_of_a_difference_is_newcombes() -> None:
    # Newcombe 1998 (difference of proportions), method 10: 56/70 - 48/80 -> 0.0524 .. 0.3339
    m = SuccessMatrix(
        tasks=(0,),
        stages=((), (0,)),
        success_RK=np.array([[48 / 80], [56 / 70]]),
        episodes_RK=np.array([[80], [70]]),
    )
    estimate = metrics.improvement(m)
    assert estimate is not None
    assert (estimate.low, estimate.high) == pytest.approx((0.0524, 0.3339), abs=5e-5)


def test_libero_forward_transfer_and_auc() -> None:
    m = matrix_of([[0.0, 0.0], [0.8, 0.1], [0.6, 0.9]], stages=[(), (0,), (1,)])
    curves = {0: [0.0, 0.4, 0.8], 1: [0.3, 0.9]}
    assert metrics.libero_forward_transfer(curves) == pytest.approx((0.4 + 0.6) / 2)
    # AUC_0 = (0.4 + 0.6) / 2, AUC_1 = 0.6
    assert metrics.libero_auc(m, curves) == pytest.approx((0.5 + 0.6) / 2)


def test_over_seeds() -> None:
    assert metrics.over_seeds([0.5, None]) == metrics.Estimate(0.5)
    estimate = metrics.over_seeds([0.4, 0.5, 0.6])
    assert estimate is not None
    # t(2) = 4.303, standard error 0.1 / sqrt(3)
    assert estimate.value == pytest.approx(0.5)
    assert estimate.high - estimate.value == pytest.approx(4.303 * 0.1 / math.sqrt(3))


def test_a_learnt_task_must_be_evaluated() -> None:
    with pytest.raises(ReportingError, match=r"learnt tasks \[7\] have no column; evaluated tasks: \[0, 1\]"):
        matrix_of([[0.5, 0.5]], stages=[(7,)])
