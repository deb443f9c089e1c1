"""The control law: robosuite's `osc` with LIBERO's settings.

Fixed impedance, delta goals, decoupled position and orientation, null-space posture (Khatib 1987). Matrices are solved
instead of inverted. It is computed between `mj_step1` and `mj_step2`, from what the first has just computed; Jacobian
and mass matrix of the arm are read straight from MuJoCo's arrays.

J = 7 arm joints. Nothing here allocates.
"""

import math

from libero_runtime.kernel.layout import NUM_JOINTS, Arm, Array, Live, Work
from libero_runtime.kernel.native import part

_POSTURE_KP = 10.0
_POSTURE_KV = 2.0 * math.sqrt(10.0)
_GRIPPER_SPEED = 0.01  # change of the normalised finger command per substep


@part
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


@part
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


@part
def read_arm(live: Live, arm: Arm, work: Work) -> None:
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


@part
def read_rest(arm: Arm, work: Work) -> None:
    """The same as robosuite's controller remembers it from its making, before the first substep of an episode."""
    for i in range(3):
        work.ee_pos[i] = arm.rest_pos[i]
        for k in range(3):
            work.ee_mat[i, k] = arm.rest_mat[i, k]
    for j in range(NUM_JOINTS):
        for i in range(6):
            work.jacobian_6J[i, j] = arm.rest_jacobian_6J[i, j]
        for k in range(NUM_JOINTS):
            work.mass_JJ[j, k] = arm.rest_mass_JJ[j, k]


@part
def set_goal(arm: Arm, work: Work, state: Array, action: Array) -> None:
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


@part
def _solve_block(work: Work, start: int) -> None:
    """Force of position (start 0) or orientation (3): that block of the inverse inertia is solved by itself."""
    for i in range(3):
        for k in range(3):
            work.block_33[i, k] = work.inverse_inertia_66[start + i, start + k]
    cholesky(work.block_33, work.lower_33)
    solve(work.lower_33, work.wrench[start : start + 3], work.force[start : start + 3])


@part
def apply(live: Live, arm: Arm, work: Work, state: Array, at_rest: bool) -> None:
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
