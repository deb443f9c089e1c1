"""One simulation: a copy of a task's physics model with its data, stepped by the compiled kernel.

Fixture poses live in the model, so scenes of one model need a physics model each. It is the scene without what is only
drawn (`physics_model`): 3 MB, whatever the meshes and textures.
"""

from dataclasses import replace
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from libero_runtime.kernel import chunk
from libero_runtime.kernel.layout import STATE_SIZE, Arm, Goal, Live, make_work
from libero_runtime.kernel.native import NUM_CONTACTS_OFFSET, function_address, load_int
from libero_runtime.sim.state import Array, EpisodeState, Pose

SUBSTEPS = 25  # of 2 ms each, in a control step
STATE = mujoco.mjtState.mjSTATE_INTEGRATION
_ARENA_BYTES = 64 << 20  # contacts and constraints: fifty times what a scene has at its fullest
_SOLVER_TOLERANCE = 1e-12  # at 1e-10, a step of a hand that presses an object down ended 27 micrometres off
# Links of the arm that touch nowhere within the ranges of the joints between them, nor 0.3 rad beyond (a test proves
# it): left to the search for contacts, with meshes of up to 6000 vertices, they take 3 to 6 % of a step.
_LINKS_APART = ((0, 1), (0, 2), (1, 3), (1, 4), (2, 4), (3, 5), (4, 6))
# What the physics reads of a model: the stripped one must have the same.
_PHYSICS_FIELDS = (
    "body_parentid", "body_mass", "body_inertia", "body_ipos", "body_iquat", "body_gravcomp", "body_invweight0",
    "jnt_type", "jnt_pos", "jnt_axis", "jnt_range", "jnt_stiffness", "dof_damping", "dof_armature", "dof_frictionloss",
    "dof_invweight0", "qpos0", "qpos_spring", "actuator_gainprm", "actuator_biasprm", "actuator_ctrlrange", "site_pos",
    "site_quat", "site_bodyid",
)  # fmt: skip


def physics_model(xml: str, full: mujoco.MjModel) -> mujoco.MjModel:
    """The scene of `full` without visual geoms, materials, textures, cameras, lights and sensors.

    Bodies, joints, sites and actuators keep their numbers. Two solver settings differ, to follow stock's motion:

    - Stock solves every substep's contacts twice (robosuite calls `mj_forward`, then `mj_step`, which starts from the
      first's solution), so that its solutions are better than MuJoCo's tolerance asks for. One solve reaches the same
      with a tighter tolerance; with the default one, stacked objects part from stock by millimetres (`fidelity`).
    - Constraint Jacobians are stored sparsely, where MuJoCo's default is dense below 60 degrees of freedom: the same
      matrices and solver, sums in another order. It takes a fifth to a third off a step.

    Sensors, whose evaluation costs 3 %, are read by nobody. Links that cannot touch are not searched for contacts,
    which changes no bit.
    """
    spec = mujoco.MjSpec.from_string(xml)
    for geom in list(spec.geoms):
        if geom.contype == 0 and geom.conaffinity == 0:
            geom.delete()
        else:
            geom.material = ""
    for site in spec.sites:
        site.material = ""
    kept = {geom.meshname for geom in spec.geoms}
    for element in [*spec.sensors, *spec.cameras, *spec.lights, *spec.materials, *spec.textures]:
        element.delete()
    for mesh in list(spec.meshes):
        if mesh.name not in kept:
            mesh.delete()
    for one, other in _LINKS_APART:
        spec.add_exclude(bodyname1=f"robot0_link{one}", bodyname2=f"robot0_link{other}")
    spec.memory, spec.nconmax, spec.njmax = _ARENA_BYTES, -1, -1
    model = spec.compile()
    model.opt.jacobian = mujoco.mjtJacobian.mjJAC_SPARSE
    model.opt.tolerance = min(model.opt.tolerance, _SOLVER_TOLERANCE)
    for name in _PHYSICS_FIELDS:
        if not np.array_equal(getattr(full, name), getattr(model, name)):
            raise ValueError(f"taking away what is only drawn changed {name}: a visual geom carries mass")
    return model


def integration_state(model: mujoco.MjModel, data: mujoco.MjData) -> Array:
    """All that MuJoCo's next step depends on, beside the model."""
    state = np.empty(mujoco.mj_stateSize(model, STATE))
    mujoco.mj_getState(model, data, state, STATE)
    return state


def make_arm(env: Any, model: mujoco.MjModel) -> Arm:
    """Constants of robot and controller, read from robosuite's environment."""
    robot = env.robots[0]
    stock = robot.controller
    site = int(model.site(stock.eef_name).id)
    dofs = np.asarray(stock.qvel_index, dtype=np.int64)
    gripper_ctrl = np.asarray(robot._ref_joint_gripper_actuator_indexes, dtype=np.int64)
    low, high = model.actuator_ctrlrange[gripper_ctrl].T
    torque_low, torque_high = (np.array(limit, dtype=np.float64) for limit in robot.torque_limits)
    return Arm(
        qpos_index=np.asarray(stock.qpos_index, dtype=np.int64),
        dof_index=dofs,
        mass_index_JJ=_mass_index(model, dofs),
        site=site,
        root_body=int(model.body_rootid[model.site_bodyid[site]]),
        arm_ctrl=np.asarray(robot._ref_joint_actuator_indexes, dtype=np.int64),
        gripper_ctrl=gripper_ctrl,
        torque_low=torque_low,
        torque_high=torque_high,
        gripper_center=0.5 * (high + low),
        gripper_half_range=0.5 * (high - low),
        kp=np.array(stock.kp, dtype=np.float64),
        kd=np.array(stock.kd, dtype=np.float64),
        scale=np.array(stock.output_max, dtype=np.float64),
        posture=np.array(stock.initial_joint, dtype=np.float64),
        rest_pos=np.array(stock.initial_ee_pos, dtype=np.float64),
        rest_mat=np.array(stock.initial_ee_ori_mat, dtype=np.float64),
        rest_jacobian_6J=np.array(stock.J_full, dtype=np.float64),
        rest_mass_JJ=np.array(stock.mass_matrix, dtype=np.float64),
        rest_qpos=np.array(stock.joint_pos, dtype=np.float64),
    )


def _mass_index(model: mujoco.MjModel, dofs: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where M[i, j] stands in `qM`: a dof's row holds its diagonal, then its ancestors' columns upwards."""
    index = np.empty((len(dofs), len(dofs)), dtype=np.int64)
    for i, dof in enumerate(dofs):
        address, ancestor = int(model.dof_Madr[dof]), int(dof)
        while ancestor >= 0:
            for j in np.flatnonzero(dofs == ancestor):
                index[i, j] = index[j, i] = address
            address, ancestor = address + 1, int(model.dof_parentid[ancestor])
    return index


class Stepper:
    """Advances one episode at a time."""

    def __init__(self, model: mujoco.MjModel, arm: Arm, fixture_bodies: NDArray[np.int64]) -> None:
        self.model = model
        self.data = mujoco.MjData(model)
        self.arm = arm
        self._fixture_bodies = fixture_bodies
        self.controller = np.zeros(STATE_SIZE)
        self.drawn_qpos = model.qpos0.copy()
        self._work = make_work()
        self._warnings = self.data.warning.number
        self._live = self._make_live()

    def _make_live(self) -> Live:
        model, data = self.model, self.data
        base, stride = _contact_address(model, data)
        return Live(
            step1=function_address("mj_step1"),
            step2=function_address("mj_step2"),
            model=model._address,
            data=data._address,
            num_contacts=data._address + NUM_CONTACTS_OFFSET,
            contact_geoms=base,
            contact_stride=stride,
            warnings=self._warnings,
            qpos=data.qpos,
            qvel=data.qvel,
            ctrl=data.ctrl,
            bias=data.qfrc_bias,
            inertia=data.qM,
            axes_V6=data.cdof,
            tree_center=data.subtree_com,
            body_pos=data.xpos,
            site_pos=data.site_xpos,
            site_mat=data.site_xmat,
        )

    def rest(self, pose: Pose) -> None:
        """Controller back to rest: gripper command zero, and the pose of the robot's default joints as the goal.

        As in stock LIBERO, where the controller is made before the initial state is set, the first action after a
        reset is relative to that default pose, and its first substep is computed there.
        """
        self.controller[:3] = self.arm.rest_pos
        self.controller[3:12] = self.arm.rest_mat.ravel()
        self.controller[12:14] = 0.0
        self.controller[14] = 1.0
        self._place(pose)

    def load(self, state: EpisodeState) -> None:
        """Continue an episode."""
        mujoco.mj_setState(self.model, self.data, state.integration, STATE)
        self.controller[:] = state.controller
        self._place(state.pose)
        self._warnings[:] = 0

    def save(self, state: EpisodeState, *, num_steps: int, success: bool) -> EpisodeState:
        """The episode that was loaded as `state`, as it is now."""
        return replace(
            state,
            integration=integration_state(self.model, self.data),
            controller=self.controller.copy(),
            pose=self.pose(state),
            num_steps=num_steps,
            success=success,
        )

    def pose(self, state: EpisodeState) -> Pose:
        """What an image of that episode, as it is now, depends on."""
        return replace(state.pose, drawn_qpos=self.drawn_qpos.copy(), qpos=self.data.qpos.copy())

    def _place(self, pose: Pose) -> None:
        """What MuJoCo's state does not hold."""
        self.model.body_pos[self._fixture_bodies] = pose.fixture_pos
        self.model.body_quat[self._fixture_bodies] = pose.fixture_quat
        self.drawn_qpos[:] = pose.drawn_qpos

    def substep(self, action: Array, *, first: bool) -> None:
        """One physics substep; `first` in each control step, when the action becomes the goal."""
        chunk.substep(self._live, self.arm, self._work, self.controller, action, first)

    def run(self, actions_CA: Array, goal: Goal, *, stop_on_success: bool, success_C: NDArray[np.bool_]) -> int:
        """Run a chunk; number of actions run, negative when MuJoCo's state went bad in the last of them."""
        own_actions_CA = np.array(actions_CA, dtype=np.float64, order="C")  # another layout would be compiled anew
        return int(
            chunk.run_chunk(
                self._live, self.arm, goal, self._work, self.controller, own_actions_CA, SUBSTEPS, stop_on_success,
                success_C, self.drawn_qpos,
            )
        )  # fmt: skip

    def goal_met(self, goal: Goal) -> bool:
        """Does the present state meet a goal?"""
        return bool(chunk.goal_met(self._live, goal))

    def warning(self) -> str:
        """MuJoCo's name of what it warned of since the state was loaded, when `run` says that it did."""
        return str(mujoco.mjtWarning(chunk.warned(self._warnings)).name)


def _contact_address(model: mujoco.MjModel, data: mujoco.MjData) -> tuple[int, int]:
    """Address of the first contact's pair of geoms, and the stride between contacts.

    MuJoCo allocates contacts first in its arena, so they stay there. A contact is needed to see the address.
    """
    mujoco.mj_fwdPosition(model, data)
    while not data.ncon:
        mujoco.mj_step(model, data)  # things fall
    if load_int(data._address + NUM_CONTACTS_OFFSET) != data.ncon:
        raise ValueError(f"mjData of MuJoCo {mujoco.__version__} is laid out otherwise: install the pinned version")
    geoms = data.contact.geom
    return int(geoms.__array_interface__["data"][0]), int(geoms.strides[0])
