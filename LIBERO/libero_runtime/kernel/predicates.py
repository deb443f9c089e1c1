"""A task's goal test, on the table that `success.compile_goal` makes of it. K predicates, G geoms."""

import math

import numpy as np
from numpy.typing import NDArray

from libero_runtime.kernel.layout import ANY_JOINT, IN_REGION, ON_OBJECT, ON_REGION, Goal, Live
from libero_runtime.kernel.native import load_int32, part

_ON_TOP_RADIUS_M = 0.03  # LIBERO's `On` between two objects: centres closer than this in the plane
_UNDER_SLACK_M, _UNDER_HEIGHT_M, _BOX_SLACK_M = 0.005, 0.10, 0.01  # LIBERO's tolerances about a region


@part
def _touching(live: Live, one: NDArray[np.bool_], other: NDArray[np.bool_]) -> bool:
    for contact in range(load_int32(live.num_contacts)):
        address = live.contact_geoms + contact * live.contact_stride
        a, b = load_int32(address), load_int32(address + 4)
        if (one[a] and other[b]) or (other[a] and one[b]):
            return True
    return False


@part
def _on_object(live: Live, goal: Goal, k: int) -> bool:
    upper, lower = live.body_pos[goal.first_K[k]], live.body_pos[goal.second_K[k]]
    x, y = lower[0] - upper[0], lower[1] - upper[1]
    if lower[2] > upper[2] or math.sqrt(x * x + y * y) >= _ON_TOP_RADIUS_M:
        return False
    return _touching(live, goal.touch_K2G[k, 0], goal.touch_K2G[k, 1])


@part
def _in_region(live: Live, goal: Goal, k: int) -> bool:
    site, body = goal.first_K[k], goal.second_K[k]
    for i in range(3):
        extent = 0.0
        for m in range(3):
            extent += live.site_mat[site, 3 * i + m] * goal.size_K3[k, m]
        extent = abs(extent)
        low = live.site_pos[site, i] - extent
        if i == 2:
            low -= _BOX_SLACK_M
        if not low < live.body_pos[body, i] < live.site_pos[site, i] + extent:
            return False
    return True


@part
def _on_region(live: Live, goal: Goal, k: int) -> bool:
    site, body = goal.first_K[k], goal.second_K[k]
    for i in range(3):
        offset = 0.0
        for m in range(3):
            offset += live.site_mat[site, 3 * i + m] * (live.body_pos[body, m] - live.site_pos[site, m])
        size = goal.size_K3[k, i]
        if i < 2 and not abs(offset) < size:
            return False
        if i == 2 and not size - _UNDER_SLACK_M < offset < size + _UNDER_HEIGHT_M:
            return False
    if not goal.needs_contact_K[k]:
        return True
    return _touching(live, goal.touch_K2G[k, 0], goal.touch_K2G[k, 1])


@part
def _joints(live: Live, goal: Goal, k: int) -> bool:
    any_suffices = goal.kind_K[k] == ANY_JOINT
    for row in range(goal.first_K[k], goal.first_K[k] + goal.second_K[k]):
        beyond = goal.joint_sign[row] * (live.qpos[goal.joint_qpos[row]] - goal.joint_threshold[row])
        holds = beyond > 0.0 or (goal.joint_inclusive[row] and beyond == 0.0)
        if holds == any_suffices:
            return bool(any_suffices)
    return not any_suffices


@part
def all_hold(live: Live, goal: Goal) -> bool:
    """Does the present state meet every predicate?"""
    for k in range(goal.kind_K.shape[0]):
        kind = goal.kind_K[k]
        if kind == ON_OBJECT:
            holds = _on_object(live, goal, k)
        elif kind == IN_REGION:
            holds = _in_region(live, goal, k)
        elif kind == ON_REGION:
            holds = _on_region(live, goal, k)
        else:
            holds = _joints(live, goal, k)
        if not holds:
            return False
    return True
