"""robosuite's operational-space controller (OSC_POSE, Panda) as one compiled function per physics substep.

Same law as `robosuite.controllers.osc` with LIBERO's settings: fixed impedance, delta goals, decoupled position and
orientation, null-space posture (Khatib 1987). Matrices are solved instead of inverted and nothing is recomputed that
`mj_step1` has just computed, so results differ from robosuite's in the last bits only.

J = 7 arm joints, V = degrees of freedom of the scene.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import mujoco
import numpy as np
from numba import njit
from numpy.typing import NDArray

Array = NDArray[np.float64]
ACTION_DIM = 7
_POSTURE_KP = 10.0
_POSTURE_KV = 2.0 * math.sqrt(10.0)
_GRIPPER_SIGNS = np.array([-1.0, 1.0])  # the fingers move in opposite directions
_GRIPPER_SPEED = 0.01  # change of the normalised finger command per substep


@njit(cache=True)
def _cholesky(matrix: Array) -> Array:
    """Lower factor of a symmetric positive matrix; directions without extent are dropped, as a pseudo-inverse does."""
    n = matrix.shape[0]
    lower = np.zeros((n, n))
    for i in range(n):
        for j in range(i + 1):
            total = matrix[i, j]
            for k in range(j):
                total -= lower[i, k] * lower[j, k]
            if i == j:
                lower[i, i] = math.sqrt(total) if total > 1e-15 * matrix[i, i] else 0.0
            elif lower[j, j] > 0.0:
                lower[i, j] = total / lower[j, j]
    return lower


@njit(cache=True)
def _solve(lower: Array, rhs: Array) -> Array:
    """Solve L L^T x = rhs for a vector."""
    n = lower.shape[0]
    x = np.zeros(n)
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
    return x


@njit(cache=True)
def _osc_torques(
    ee_pos: Array, ee_mat: Array, jacobian_6V: Array, mass_VV: Array, qpos: Array, qvel: Array, bias: Array,
    qpos_index: NDArray[np.int64], dof_index: NDArray[np.int64], goal_pos: Array, goal_ori: Array, posture: Array,
    kp: Array, kd: Array,
) -> Array:
    num_joints = dof_index.shape[0]
    jacobian = np.empty((6, num_joints))
    mass = np.empty((num_joints, num_joints))
    for j in range(num_joints):
        for i in range(6):
            jacobian[i, j] = jacobian_6V[i, dof_index[j]]
        for i in range(num_joints):
            mass[i, j] = mass_VV[dof_index[i], dof_index[j]]

    # Desired end-effector acceleration: proportional to the pose error, damped by the velocity.
    wrench = np.zeros(6)
    for i in range(3):
        wrench[i] = (goal_pos[i] - ee_pos[i]) * kp[i]
    for axis in range(3):
        c0, c1, c2 = ee_mat[0, axis], ee_mat[1, axis], ee_mat[2, axis]
        d0, d1, d2 = goal_ori[0, axis], goal_ori[1, axis], goal_ori[2, axis]
        wrench[3] += 0.5 * (c1 * d2 - c2 * d1) * kp[3]
        wrench[4] += 0.5 * (c2 * d0 - c0 * d2) * kp[4]
        wrench[5] += 0.5 * (c0 * d1 - c1 * d0) * kp[5]
    for i in range(6):
        velocity = 0.0
        for j in range(num_joints):
            velocity += jacobian[i, j] * qvel[dof_index[j]]
        wrench[i] -= velocity * kd[i]

    mass_lower = _cholesky(mass)
    inverse_inertia = np.empty((6, 6))  # J M^-1 J^T
    for i in range(6):
        column = _solve(mass_lower, jacobian[i])
        for k in range(6):
            total = 0.0
            for j in range(num_joints):
                total += jacobian[k, j] * column[j]
            inverse_inertia[k, i] = total

    # Position and orientation are decoupled: each block of the inverse inertia is solved by itself.
    force = np.empty(6)
    force[:3] = _solve(_cholesky(inverse_inertia[:3, :3]), wrench[:3])
    force[3:] = _solve(_cholesky(inverse_inertia[3:, 3:]), wrench[3:])

    # Posture torques M a, projected so that they do not move the end effector: M a - J^T Lambda J a.
    posture_acc = np.empty(num_joints)
    for j in range(num_joints):
        posture_acc[j] = _POSTURE_KP * (posture[j] - qpos[qpos_index[j]]) - _POSTURE_KV * qvel[dof_index[j]]
    task_acc = np.zeros(6)
    for i in range(6):
        for j in range(num_joints):
            task_acc[i] += jacobian[i, j] * posture_acc[j]
    force -= _solve(_cholesky(inverse_inertia), task_acc)

    torques = np.empty(num_joints)
    for j in range(num_joints):
        total = bias[dof_index[j]]
        for i in range(6):
            total += jacobian[i, j] * force[i]
        for k in range(num_joints):
            total += mass[j, k] * posture_acc[k]
        torques[j] = total
    return torques


def _rotation_matrix(rotvec: Array) -> Array:
    """Rotation matrix (3, 3) of an axis-angle vector (Rodrigues)."""
    angle = float(np.linalg.norm(rotvec))
    x, y, z = rotvec / angle
    s, c = math.sin(angle), math.cos(angle)
    t = 1.0 - c
    return np.array([
        [t * x * x + c, t * x * y - s * z, t * x * z + s * y],
        [t * x * y + s * z, t * y * y + c, t * y * z - s * x],
        [t * x * z - s * y, t * y * z + s * x, t * z * z + c],
    ])


class Controller(Protocol):
    """Advances a scene by physics substeps under an action, and owns the state that an episode must keep."""

    def reset(self) -> None:
        """Back to rest: gripper command zero, and the pose of the robot's default joints as the present goal.

        As in stock LIBERO, where the controller is made before the initial state is set, the first action after a
        reset is relative to that default pose, and its first substep is computed there.
        """

    def get_state(self) -> Array:
        """State (15,) to be saved with an episode: goal position 3 and rotation 9, gripper command 2, at rest 1."""

    def set_state(self, state: Array) -> None:
        """Restore what `get_state` returned."""

    def substep(self, action: Array, *, first: bool) -> None:
        """One physics substep (2 ms); `first` in each control step, when the action becomes the goal."""


class ExactController:
    """robosuite's own controller in stock order (two extra forward passes per substep): for parity, not for speed.

    A state saved at rest, before any step, does not hold all that robosuite's controller remembers.
    """

    def __init__(self, env: Any) -> None:
        self._env = env

    def reset(self) -> None:
        pass  # robosuite makes a new controller in its own reset

    def get_state(self) -> Array:
        robot = self._env.robots[0]
        goal = robot.controller
        gripper = np.broadcast_to(np.asarray(robot.gripper.current_action, dtype=np.float64), (2,))
        return np.concatenate([goal.goal_pos, np.ravel(goal.goal_ori), gripper, [0.0]])

    def set_state(self, state: Array) -> None:
        robot = self._env.robots[0]
        robot.controller.goal_pos = state[:3].copy()
        robot.controller.goal_ori = state[3:12].reshape(3, 3).copy()
        robot.controller.new_update = True
        robot.gripper.current_action = state[12:14].copy()

    def substep(self, action: Array, *, first: bool) -> None:
        self._env.sim.forward()
        self._env._pre_action(action, policy_step=first)
        self._env.sim.step()


@dataclass(frozen=True)
class _ArmState:
    """What the control law reads of the robot. The live one is views of MuJoCo's arrays and two scratch matrices."""

    ee_pos: Array  # (3,)
    ee_mat: Array  # (3, 3)
    jacobian_6V: Array
    mass_VV: Array
    qpos: Array
    qvel: Array


class FastController:
    """OSC and gripper commands for the one Panda of a LIBERO scene.

    Controls are computed between `mj_step1` and `mj_step2`, from what the first has just computed.
    """

    def __init__(self, env: Any) -> None:
        robot = env.robots[0]
        stock = robot.controller
        if stock.name != "OSC_POSE" or stock.impedance_mode != "fixed" or not (stock.use_delta and stock.uncoupling):
            raise ValueError(f"expected LIBERO's fixed-impedance delta OSC_POSE controller, given {stock.name}")
        self._model: mujoco.MjModel = env.sim.model._model
        self._data: mujoco.MjData = env.sim.data._data
        self._site = int(env.sim.model.site_name2id(stock.eef_name))
        self._qpos_index = np.asarray(stock.qpos_index, dtype=np.int64)
        self._dof_index = np.asarray(stock.qvel_index, dtype=np.int64)
        self._arm_ctrl = np.asarray(robot._ref_joint_actuator_indexes, dtype=np.int64)
        self._gripper_ctrl = np.asarray(robot._ref_joint_gripper_actuator_indexes, dtype=np.int64)
        self._torque_low, self._torque_high = (np.array(limit, dtype=np.float64) for limit in robot.torque_limits)
        low, high = self._model.actuator_ctrlrange[self._gripper_ctrl].T
        self._gripper_center, self._gripper_half_range = 0.5 * (high + low), 0.5 * (high - low)
        self._kp = np.array(stock.kp, dtype=np.float64)
        self._kd = np.array(stock.kd, dtype=np.float64)
        self._scale = np.array(stock.output_max, dtype=np.float64)
        self._posture = np.array(stock.initial_joint, dtype=np.float64)
        self._gripper_step = np.zeros(2)
        self._live = _ArmState(
            ee_pos=self._data.site_xpos[self._site],
            ee_mat=self._data.site_xmat[self._site].reshape(3, 3),
            jacobian_6V=np.zeros((6, self._model.nv)),
            mass_VV=np.zeros((self._model.nv, self._model.nv)),
            qpos=self._data.qpos,
            qvel=self._data.qvel,
        )
        self._rest = self._state_at_rest(stock)
        self.reset()

    def _state_at_rest(self, stock: Any) -> _ArmState:
        """What robosuite's controller remembers from its making, in the layout of the live state."""
        rest = _ArmState(
            ee_pos=np.array(stock.initial_ee_pos),
            ee_mat=np.array(stock.initial_ee_ori_mat),
            jacobian_6V=np.zeros((6, self._model.nv)),
            mass_VV=np.zeros((self._model.nv, self._model.nv)),
            qpos=np.zeros(self._model.nq),
            qvel=np.zeros(self._model.nv),
        )
        rest.jacobian_6V[:, self._dof_index] = stock.J_full
        rest.mass_VV[np.ix_(self._dof_index, self._dof_index)] = stock.mass_matrix
        rest.qpos[self._qpos_index] = stock.joint_pos
        return rest

    def reset(self) -> None:
        self._goal_pos, self._goal_mat = self._rest.ee_pos, self._rest.ee_mat
        self._gripper = np.zeros(2)
        self._at_rest = True

    def get_state(self) -> Array:
        return np.concatenate([self._goal_pos, self._goal_mat.ravel(), self._gripper, [float(self._at_rest)]])

    def set_state(self, state: Array) -> None:
        self._goal_pos = state[:3].copy()
        self._goal_mat = state[3:12].reshape(3, 3).copy()
        self._gripper = state[12:14].copy()
        self._at_rest = bool(state[14])

    def substep(self, action: Array, *, first: bool) -> None:
        model, data = self._model, self._data
        mujoco.mj_step1(model, data)
        if self._at_rest:
            arm, self._at_rest = self._rest, False
        else:
            arm = self._live
            mujoco.mj_jacSite(model, data, arm.jacobian_6V[:3], arm.jacobian_6V[3:], self._site)
            mujoco.mj_fullM(model, arm.mass_VV, data.qM)
        if first:
            self._set_goal(action, arm)
        self._apply(arm)
        mujoco.mj_step2(model, data)

    def _set_goal(self, action: Array, arm: _ArmState) -> None:
        """Turn an action (7,) in [-1, 1] into a pose goal relative to the present pose, and a gripper direction.

        As in robosuite, an action without rotation keeps the previous orientation goal.
        """
        delta = np.clip(action[:6], -1.0, 1.0) * self._scale
        self._goal_pos = arm.ee_pos + delta[:3]
        if delta[3:].any():
            self._goal_mat = _rotation_matrix(delta[3:]) @ arm.ee_mat
        self._gripper_step = _GRIPPER_SIGNS * _GRIPPER_SPEED * np.sign(action[6])

    def _apply(self, arm: _ArmState) -> None:
        """Write the controls of one physics substep."""
        ctrl = self._data.ctrl
        torques = _osc_torques(
            arm.ee_pos, arm.ee_mat, arm.jacobian_6V, arm.mass_VV, arm.qpos, arm.qvel, self._data.qfrc_bias,
            self._qpos_index, self._dof_index, self._goal_pos, self._goal_mat, self._posture, self._kp, self._kd,
        )
        ctrl[self._arm_ctrl] = np.minimum(np.maximum(torques, self._torque_low), self._torque_high)
        self._gripper = np.minimum(np.maximum(self._gripper + self._gripper_step, -1.0), 1.0)
        ctrl[self._gripper_ctrl] = self._gripper_center + self._gripper_half_range * self._gripper
