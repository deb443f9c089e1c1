"""What the compiled step loop reads and writes: arrays, and addresses in MuJoCo's memory.

J = 7 arm joints, K goal predicates, G geoms.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Indices = NDArray[np.int64]

NUM_JOINTS = 7
ACTION_DIM = 7
STATE_SIZE = 15  # of the controller: goal position 3 and rotation 9, gripper command 2, at rest 1
ON_OBJECT, IN_REGION, ON_REGION, ANY_JOINT, ALL_JOINTS = range(5)  # kinds of goal predicates


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
