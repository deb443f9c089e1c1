"""A chunk of actions in one episode as one compiled function: 25 physics substeps per action, controller and goal test.

The control law is robosuite's `osc` with LIBERO's settings: fixed impedance, delta goals, decoupled position and
orientation, null-space posture (Khatib 1987). Matrices are solved instead of inverted. It is computed between
`mj_step1` and `mj_step2`, from what the first has just computed; Jacobian and mass matrix of the arm are read straight
from MuJoCo's arrays. Every function also runs as plain Python (see `native`), with the same bits.

J = 7 arm joints, K goal predicates, G geoms, C actions. Nothing here allocates.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from libero_runtime.native import call, compiled, load_int32

Array = NDArray[np.float64]
Indices = NDArray[np.int64]

NUM_JOINTS = 7
ACTION_DIM = 7
STATE_SIZE = 15  # of the controller: goal position 3 and rotation 9, gripper command 2, at rest 1
_POSTURE_KP = 10.0
_POSTURE_KV = 2.0 * math.sqrt(10.0)
_GRIPPER_SPEED = 0.01  # change of the normalised finger command per substep
_ON_TOP_RADIUS_M = 0.03  # LIBERO's `On` between two objects: centres closer than this in the plane
_UNDER_SLACK_M, _UNDER_HEIGHT_M, _BOX_SLACK_M = 0.005, 0.10, 0.01  # LIBERO's tolerances about a region
_FIRST_BAD, _LAST_BAD = 4, 7  # mjWARN_BADQPOS to mjWARN_BADCTRL
_FIRST_FULL, _LAST_FULL = 1, 2  # mjWARN_CONTACTFULL, mjWARN_CNSTRFULL

ON_OBJECT, IN_REGION, ON_REGION, ANY_JOINT, ALL_JOINTS = range(5)


class Arm(NamedTuple):
    """What does not change of robot and controller."""

    qpos_index: Indices  # (J,)
    dof_index: Indices  # (J,)
    mass_index_JJ: Indices  # where M[i, j] is in MuJoCo's `qM`
    site: int  # the end effector
    root_body: int  # of the kinematic tree whose centre of mass MuJoCo's motion axes refer to
    arm_ctrl: Indices  # (J,)
    gripper_ctrl: Indices  # (2,)
    torque_low: Array  # (J,)
    torque_high: Array  # (J,)
    gripper_center: Array  # (2,)
    gripper_half_range: Array  # (2,)
    kp: Array  # (6,)
    kd: Array  # (6,)
    scale: Array  # (6,) metres and radians of a unit action
    posture: Array  # (J,)
    rest_pos: Array  # (3,) what the controller remembers from its making, and uses in an episode's first substep
    rest_mat: Array  # (3, 3)
    rest_jacobian_6J: Array
    rest_mass_JJ: Array
    rest_qpos: Array  # (J,)


class Live(NamedTuple):
    """One simulation: views of MuJoCo's arrays, and addresses."""

    step1: int
    step2: int
    model: int
    data: int
    num_contacts: int  # address of ncon
    contact_geoms: int  # address of the first contact's pair of geoms
    contact_stride: int  # bytes between contacts
    warnings: NDArray[np.int32]
    qpos: Array
    qvel: Array
    ctrl: Array
    bias: Array
    inertia: Array  # qM
    axes_V6: Array  # cdof: motion axes about the centre of mass
    tree_center: Array  # subtree_com
    body_pos: Array
    site_pos: Array
    site_mat: Array  # (sites, 9)


class Goal(NamedTuple):
    """A task's goal predicates as a table."""

    kind_K: Indices
    first_K: Indices  # ON_OBJECT: upper body; regions: site; joints: first row in the joint columns
    second_K: Indices  # ON_OBJECT: lower body; regions: body; joints: number of rows
    needs_contact_K: NDArray[np.bool_]
    size_K3: Array  # half sizes of regions
    touch_K2G: NDArray[np.bool_]  # which geoms count as the one or the other side in contact checks
    joint_qpos: Indices  # where in qpos
    joint_sign: Array  # 1: true above the threshold, -1: below
    joint_threshold: Array
    joint_inclusive: NDArray[np.bool_]


class Work(NamedTuple):
    """Scratch memory of one simulation."""

    jacobian_6J: Array
    mass_JJ: Array
    mass_lower_JJ: Array
    inverse_inertia_66: Array
    lower_66: Array
    block_33: Array
    lower_33: Array
    wrench: Array  # (6,)
    column: Array  # (J,)
    force: Array  # (6,)
    task: Array  # (6,)
    posture_acc: Array  # (J,)
    ee_pos: Array  # (3,)
    ee_mat: Array  # (3, 3)
    rotation: Array  # (3, 3)
    gripper_step: Array  # (2,)


def make_work() -> Work:
    """Scratch memory, zeroed."""
    j = NUM_JOINTS
    return Work(*(np.zeros(shape) for shape in (
        (6, j), (j, j), (j, j), (6, 6), (6, 6), (3, 3), (3, 3), 6, j, 6, 6, j, 3, (3, 3), (3, 3), 2,
    )))  # fmt: skip


@compiled
def cholesky(matrix: Array, lower: Array) -> None:
    """Lower factor of a symmetric positive matrix; directions without extent are dropped, as a pseudo-inverse does."""
    n = matrix.shape[0]
    for i in range(n):
        for j in range(i + 1):
            total = matrix[i, j]
            for k in range(j):
                total -= lower[i, k] * lower[j, k]
            if i == j:
                lower[i, i] = math.sqrt(total) if total > 1e-15 * matrix[i, i] else 0.0
            elif lower[j, j] > 0.0:
                lower[i, j] = total / lower[j, j]
            else:
                lower[i, j] = 0.0


@compiled
def solve(lower: Array, rhs: Array, x: Array) -> None:
    """Solve L L^T x = rhs for a vector; x may be rhs."""
    n = lower.shape[0]
    for i in range(n):
        total = rhs[i]
        for k in range(i):
            total -= lower[i, k] * x[k]
        x[i] = total / lower[i, i] if lower[i, i] > 0.0 else 0.0
    for i in range(n - 1, -1, -1):
        total = x[i]
        for k in range(i + 1, n):
            total -= lower[k, i] * x[k]
        x[i] = total / lower[i, i] if lower[i, i] > 0.0 else 0.0


@compiled
def _read_arm(live: Live, arm: Arm, work: Work) -> None:
    """Pose, Jacobian and mass matrix of the arm as `mj_step1` left them."""
    for i in range(3):
        work.ee_pos[i] = live.site_pos[arm.site, i]
        for k in range(3):
            work.ee_mat[i, k] = live.site_mat[arm.site, 3 * i + k]
    x = work.ee_pos[0] - live.tree_center[arm.root_body, 0]
    y = work.ee_pos[1] - live.tree_center[arm.root_body, 1]
    z = work.ee_pos[2] - live.tree_center[arm.root_body, 2]
    for j in range(NUM_JOINTS):
        axis = live.axes_V6[arm.dof_index[j]]
        work.jacobian_6J[0, j] = axis[3] + (axis[1] * z - axis[2] * y)
        work.jacobian_6J[1, j] = axis[4] + (axis[2] * x - axis[0] * z)
        work.jacobian_6J[2, j] = axis[5] + (axis[0] * y - axis[1] * x)
        for i in range(3):
            work.jacobian_6J[3 + i, j] = axis[i]
        for k in range(NUM_JOINTS):
            work.mass_JJ[j, k] = live.inertia[arm.mass_index_JJ[j, k]]


@compiled
def _read_rest(arm: Arm, work: Work) -> None:
    for i in range(3):
        work.ee_pos[i] = arm.rest_pos[i]
        for k in range(3):
            work.ee_mat[i, k] = arm.rest_mat[i, k]
    for j in range(NUM_JOINTS):
        for i in range(6):
            work.jacobian_6J[i, j] = arm.rest_jacobian_6J[i, j]
        for k in range(NUM_JOINTS):
            work.mass_JJ[j, k] = arm.rest_mass_JJ[j, k]


@compiled
def _set_goal(arm: Arm, work: Work, state: Array, action: Array) -> None:
    """Turn an action (7,) in [-1, 1] into a pose goal relative to the present pose, and a gripper direction.

    As in robosuite, an action without rotation keeps the previous orientation goal.
    """
    rotvec = work.column
    turns = False
    for i in range(6):
        delta = min(max(action[i], -1.0), 1.0) * arm.scale[i]
        if i < 3:
            state[i] = work.ee_pos[i] + delta
        else:
            rotvec[i - 3] = delta
            turns = turns or delta != 0.0
    if turns:
        angle = math.sqrt(rotvec[0] * rotvec[0] + rotvec[1] * rotvec[1] + rotvec[2] * rotvec[2])
        x, y, z = rotvec[0] / angle, rotvec[1] / angle, rotvec[2] / angle
        s, c = math.sin(angle), math.cos(angle)
        t = 1.0 - c
        r = work.rotation
        r[0, 0], r[0, 1], r[0, 2] = t * x * x + c, t * x * y - s * z, t * x * z + s * y
        r[1, 0], r[1, 1], r[1, 2] = t * x * y + s * z, t * y * y + c, t * y * z - s * x
        r[2, 0], r[2, 1], r[2, 2] = t * x * z - s * y, t * y * z + s * x, t * z * z + c
        for i in range(3):
            for k in range(3):
                total = 0.0
                for m in range(3):
                    total += r[i, m] * work.ee_mat[m, k]
                state[3 + 3 * i + k] = total
    direction = 1.0 if action[6] > 0.0 else (-1.0 if action[6] < 0.0 else 0.0)
    work.gripper_step[0] = -_GRIPPER_SPEED * direction  # the fingers move in opposite directions
    work.gripper_step[1] = _GRIPPER_SPEED * direction


@compiled
def _solve_block(work: Work, start: int) -> None:
    """Force of position (start 0) or orientation (3): that block of the inverse inertia is solved by itself."""
    for i in range(3):
        for k in range(3):
            work.block_33[i, k] = work.inverse_inertia_66[start + i, start + k]
    cholesky(work.block_33, work.lower_33)
    solve(work.lower_33, work.wrench[start : start + 3], work.force[start : start + 3])


@compiled
def _apply(live: Live, arm: Arm, work: Work, state: Array, at_rest: bool) -> None:
    """Write the controls of one physics substep."""
    jacobian, mass = work.jacobian_6J, work.mass_JJ
    # Desired end-effector acceleration: proportional to the pose error, damped by the velocity.
    for i in range(3):
        work.wrench[i] = (state[i] - work.ee_pos[i]) * arm.kp[i]
        work.wrench[3 + i] = 0.0
    for axis in range(3):
        c0, c1, c2 = work.ee_mat[0, axis], work.ee_mat[1, axis], work.ee_mat[2, axis]
        d0, d1, d2 = state[3 + axis], state[6 + axis], state[9 + axis]
        work.wrench[3] += 0.5 * (c1 * d2 - c2 * d1) * arm.kp[3]
        work.wrench[4] += 0.5 * (c2 * d0 - c0 * d2) * arm.kp[4]
        work.wrench[5] += 0.5 * (c0 * d1 - c1 * d0) * arm.kp[5]
    for j in range(NUM_JOINTS):
        position = arm.rest_qpos[j] if at_rest else live.qpos[arm.qpos_index[j]]
        velocity = 0.0 if at_rest else live.qvel[arm.dof_index[j]]
        work.column[j] = velocity
        work.posture_acc[j] = _POSTURE_KP * (arm.posture[j] - position) - _POSTURE_KV * velocity
    for i in range(6):
        velocity = 0.0
        for j in range(NUM_JOINTS):
            velocity += jacobian[i, j] * work.column[j]
        work.wrench[i] -= velocity * arm.kd[i]

    cholesky(mass, work.mass_lower_JJ)
    for i in range(6):  # J M^-1 J^T
        solve(work.mass_lower_JJ, jacobian[i], work.column)
        for k in range(6):
            total = 0.0
            for j in range(NUM_JOINTS):
                total += jacobian[k, j] * work.column[j]
            work.inverse_inertia_66[k, i] = total
    _solve_block(work, 0)
    _solve_block(work, 3)

    # Posture torques M a, projected so that they do not move the end effector: M a - J^T Lambda J a.
    for i in range(6):
        work.task[i] = 0.0
        for j in range(NUM_JOINTS):
            work.task[i] += jacobian[i, j] * work.posture_acc[j]
    cholesky(work.inverse_inertia_66, work.lower_66)
    solve(work.lower_66, work.task, work.task)
    for j in range(NUM_JOINTS):
        torque = live.bias[arm.dof_index[j]]
        for i in range(6):
            torque += jacobian[i, j] * (work.force[i] - work.task[i])
        for k in range(NUM_JOINTS):
            torque += mass[j, k] * work.posture_acc[k]
        live.ctrl[arm.arm_ctrl[j]] = min(max(torque, arm.torque_low[j]), arm.torque_high[j])
    for i in range(2):
        state[12 + i] = min(max(state[12 + i] + work.gripper_step[i], -1.0), 1.0)
        live.ctrl[arm.gripper_ctrl[i]] = arm.gripper_center[i] + arm.gripper_half_range[i] * state[12 + i]


@compiled
def substep(live: Live, arm: Arm, work: Work, state: Array, action: Array, first: bool) -> None:
    """One physics substep (2 ms); `first` in each control step, when the action becomes the goal."""
    call(live.step1, live.model, live.data)
    at_rest = state[14] != 0.0
    if at_rest:
        _read_rest(arm, work)
        state[14] = 0.0
    else:
        _read_arm(live, arm, work)
    if first:
        _set_goal(arm, work, state, action)
    _apply(live, arm, work, state, at_rest)
    call(live.step2, live.model, live.data)


@compiled
def _touching(live: Live, one: NDArray[np.bool_], other: NDArray[np.bool_]) -> bool:
    for contact in range(load_int32(live.num_contacts)):
        address = live.contact_geoms + contact * live.contact_stride
        a, b = load_int32(address), load_int32(address + 4)
        if (one[a] and other[b]) or (other[a] and one[b]):
            return True
    return False


@compiled
def _on_object(live: Live, goal: Goal, k: int) -> bool:
    upper, lower = live.body_pos[goal.first_K[k]], live.body_pos[goal.second_K[k]]
    x, y = lower[0] - upper[0], lower[1] - upper[1]
    if lower[2] > upper[2] or math.sqrt(x * x + y * y) >= _ON_TOP_RADIUS_M:
        return False
    return _touching(live, goal.touch_K2G[k, 0], goal.touch_K2G[k, 1])


@compiled
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


@compiled
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


@compiled
def _joints(live: Live, goal: Goal, k: int) -> bool:
    any_suffices = goal.kind_K[k] == ANY_JOINT
    for row in range(goal.first_K[k], goal.first_K[k] + goal.second_K[k]):
        beyond = goal.joint_sign[row] * (live.qpos[goal.joint_qpos[row]] - goal.joint_threshold[row])
        holds = beyond > 0.0 or (goal.joint_inclusive[row] and beyond == 0.0)
        if holds == any_suffices:
            return bool(any_suffices)
    return not any_suffices


@compiled
def goal_met(live: Live, goal: Goal) -> bool:
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


@compiled
def warned(live: Live) -> int:
    """The first of MuJoCo's warnings after which a state means nothing, or -1."""
    for kind in range(_FIRST_FULL, _LAST_BAD + 1):
        if (kind <= _LAST_FULL or kind >= _FIRST_BAD) and live.warnings[kind] != 0:
            return kind
    return -1


@compiled
def run_chunk(
    live: Live, arm: Arm, goal: Goal, work: Work, state: Array, actions_CA: Array, num_substeps: int,
    stop_on_success: bool, success_C: NDArray[np.bool_], drawn_qpos: Array,
) -> int:
    """Run the actions; returns how many were run, negative when MuJoCo warned in the last of them.

    state: controller's (15,), advanced in place. success_C: the goal after each action. drawn_qpos: positions that the
    poses left in mjData belong to (those before the last substep).
    """
    for c in range(actions_CA.shape[0]):
        for count in range(num_substeps):
            if count == num_substeps - 1:
                drawn_qpos[:] = live.qpos
            substep(live, arm, work, state, actions_CA[c], count == 0)
        if warned(live) >= 0:
            return -(c + 1)
        success_C[c] = goal_met(live, goal)
        if stop_on_success and success_C[c]:
            return c + 1
    return len(actions_CA)
