"""A scripted expert for LIBERO-Spatial: pick the goal's bowl up by its rim and set it on the plate.

It reads the simulator's state and answers with the environment's own actions, one per control step. It acts on the
present state only, apart from the phase it is in, so it recovers from disturbed actions and from a lost bowl. For
learners it is deliberately regular: always the same side of the rim, one hand orientation except in a drawer, straight
moves at full speed, and height a function of the remaining distance, so that phases can be told from a picture.

World frame: x away from the robot, y to its left, z up; metres, radians.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

import mujoco
import numpy as np
from numpy.typing import NDArray

from libero_runtime.scene import Scene

Array = NDArray[np.float64]

# What an action of 1 asks for (LIBERO's OSC_POSE configuration).
POSITION_PER_ACTION_M = 0.05
ROTATION_PER_ACTION_RAD = 0.5
OPEN, CLOSE = -1.0, 1.0

_ROBOT_XY = np.array([-0.66, 0.0])  # the arm's first axis, for LIBERO's table
_FINGER_REACH_M = 0.046  # from between the half-closed fingers to the outer side of one
_FINGER_HALF_WIDTH_M = 0.011
_WALL_GAP_M = 0.003
_DRAWER_BACK_M = 0.016  # at its back, this much of an open drawer stays below the cabinet's top
# Sides of the bowl to take it by in a drawer, in order of preference: towards the robot, where the arm is not
# stretched. The stand-in's wall has flat sides every 22.5 degrees.
_DRAWER_ANGLES_DEG = (135.0, 112.5)
_WORTH_ANOTHER_SIDE_M = 0.003
_HAND_SITE = "gripper0_grip_site"
_FINGER_JOINTS = ("gripper0_finger_joint1", "gripper0_finger_joint2")
_DRAWER_REGIONS = ("top_region", "middle_region", "bottom_region")


class ExpertError(ValueError):
    """The task is not one this expert can do."""


@dataclass(frozen=True)
class ExpertConfig:
    """Geometry of the grasp and speed of the moves."""

    position_gain: float = 2.5  # action per goal distance, in units of one action's reach
    rotation_gain: float = 1.5
    rim_radius: float = 0.0490  # middle of the bowl's wall at the rim
    rim_height: float = 0.0521  # rim above the bowl's own origin
    grip_depth: float = 0.017  # the finger pads' middle below the rim
    drawer_depth: float = 0.010  # the same in a drawer
    drawer_hover: float = 0.05  # start to close this far above the grasp in a drawer
    hover: float = 0.10  # height above the grasp while still far from it
    approach_slope: float = 2.0  # rise of the approach per metre of remaining distance
    carry_slope: float = 1.0
    carry_height: float = 0.07  # bowl above the plate while carried
    lift: float = 0.035  # rise before moving sideways
    tolerance_xy: float = 0.010
    tolerance_z: float = 0.010
    open_gap: float = 0.07
    held_gap: float = 0.012  # the fingers are closed on the rim below this opening
    lost_distance: float = 0.035  # the rim is this far from the fingers: the bowl was lost
    straight_reach: float = 0.62  # furthest from the robot's axis that the hand points straight down
    tilt_per_metre: float = 1.7  # lean beyond that: at 0.8 m the wrist must stay 6 cm behind the fingers
    max_close_steps: int = 14
    max_release_steps: int = 8


@dataclass(frozen=True)
class Drawer:
    """The inside of the drawer that the bowl is in."""

    center: Array  # (3,)
    side: Array  # (2,) horizontal unit vector across the drawer, away from the robot
    out: Array  # (2,) horizontal unit vector along which the drawer opens
    half: Array  # (2,) half extents of the inside along `side` and `out`
    top: float  # height of its walls' upper edge


@dataclass(frozen=True)
class ExpertState:
    """All that the expert looks at."""

    hand_pos: Array  # (3,) between the finger pads
    hand_mat: Array  # (3, 3); first column: the axis along which the fingers open
    finger_gap: float  # opening between the fingers, 0 to 0.08
    bowl: Array  # (3,)
    plate: Array  # (3,)
    drawer: Drawer | None


class Phase(Enum):
    """What the expert is doing."""

    APPROACH = "approach"
    GRASP = "grasp"
    CARRY = "carry"
    RELEASE = "release"


class StateReader:
    """Finds the task's bowl, plate and drawers in a scene and reads their state."""

    def __init__(self, scene: Scene) -> None:
        self._data = scene.data
        model = scene.model
        self._bowl, self._plate = (_body_id(model, f"{name}_main") for name in goal_objects(scene))
        self._hand = int(model.site(_HAND_SITE).id)
        self._fingers = [int(model.joint(name).qposadr[0]) for name in _FINGER_JOINTS]
        self._drawers = [
            index for index in range(model.nsite) if model.site(index).name.endswith(_DRAWER_REGIONS)
        ]
        self._drawer_sizes = model.site_size[self._drawers]

    def read(self) -> ExpertState:
        """The present state; call right after stepping."""
        data = self._data
        bowl = data.xpos[self._bowl].copy()
        return ExpertState(
            hand_pos=data.site_xpos[self._hand].copy(),
            hand_mat=data.site_xmat[self._hand].reshape(3, 3).copy(),
            finger_gap=float(data.qpos[self._fingers[0]] - data.qpos[self._fingers[1]]),
            bowl=bowl,
            plate=data.xpos[self._plate].copy(),
            drawer=self._drawer_around(bowl),
        )

    def _drawer_around(self, bowl: Array) -> Drawer | None:
        for site, size in zip(self._drawers, self._drawer_sizes, strict=True):
            center = self._data.site_xpos[site]
            rotation = self._data.site_xmat[site].reshape(3, 3)
            # The region's box stands on its side: its local z runs across the drawer, y along it, x up.
            local = rotation.T @ (bowl - center)
            # A bowl's origin is at its bottom, which rests at the lower end of the region.
            if np.all(np.abs(local) < size + np.array([0.02, 0.0, 0.0])) and bowl[2] < center[2]:
                across, along = rotation[:2, 2], -rotation[:2, 1]
                side = across if across[0] > 0 else -across
                return Drawer(
                    center=center.copy(), side=side.copy(), out=along.copy(), half=size[[2, 1]], top=center[2] + size[0]
                )
        return None


def _body_id(model: mujoco.MjModel, name: str) -> int:
    body = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_BODY, name)
    if body < 0:
        raise ExpertError(f"the scene has no body {name!r}")
    return int(body)


def goal_objects(scene: Scene) -> tuple[str, str]:
    """Names of the object to move and the object to put it on; an error when the goal is anything else."""
    goal = scene.env.parsed_problem["goal_state"]
    movable = scene.env.objects_dict
    if len(goal) == 1 and len(goal[0]) == 3 and goal[0][0] == "on" and goal[0][1] in movable and goal[0][2] in movable:
        upper, lower = goal[0][1:]
        if "bowl" in upper and "plate" in lower:
            return upper, lower
    raise ExpertError(
        f"the scripted expert puts a bowl on a plate (LIBERO-Spatial); task {scene.task.task_id} of "
        f"{scene.task.suite} has the goal {goal}"
    )


def rotation_vector(matrix: Array) -> Array:
    """Axis times angle (3,) of a rotation matrix, for angles below 180 degrees."""
    twice_sine_axis = np.array(
        [matrix[2, 1] - matrix[1, 2], matrix[0, 2] - matrix[2, 0], matrix[1, 0] - matrix[0, 1]]
    )
    sine, cosine = float(np.linalg.norm(twice_sine_axis)) / 2, (float(np.trace(matrix)) - 1) / 2
    if sine < 1e-9:
        return np.zeros(3)
    vector: Array = twice_sine_axis / (2 * sine) * math.atan2(sine, cosine)
    return vector


def _hand_matrix(finger_axis: Array, tilt: float) -> Array:
    """Hand whose fingers open along a horizontal unit vector (2,) and point down, leaning by `tilt` towards +x."""
    x, y = float(finger_axis[0]), float(finger_axis[1])
    sine, cosine = math.sin(tilt), math.cos(tilt)
    upright = np.array([[x, y, 0.0], [y, -x, 0.0], [0.0, 0.0, -1.0]])
    leaning: Array = np.array([[cosine, 0.0, -sine], [0.0, 1.0, 0.0], [sine, 0.0, cosine]]) @ upright
    return leaning


def drawer_grasp(bowl: Array, drawer: Drawer, rim_radius: float) -> tuple[float, Array]:
    """Distance (m) from the bowl's middle and direction (2,) of the grasp that fits the hand into a drawer.

    Where the outer finger would meet a wall even half closed, the hand stays closer to the bowl's middle: closing it
    then pulls the rim in between the fingers.
    """
    offset = bowl[:2] - drawer.center[:2]
    across, along = float(offset @ drawer.side), float(offset @ drawer.out)
    half_across, half_along = drawer.half - _WALL_GAP_M
    best_radius, best_direction = -math.inf, drawer.side
    for degrees in _DRAWER_ANGLES_DEG:
        direction = np.array([math.cos(math.radians(degrees)), math.sin(math.radians(degrees))])
        sideways, outwards = float(direction @ drawer.side), float(direction @ drawer.out)
        room_across = half_across - math.copysign(across, sideways * across)
        room_along = half_along - along if outwards > 0 else half_along - _DRAWER_BACK_M + along
        radius = min(
            rim_radius,
            (room_across - _FINGER_HALF_WIDTH_M * abs(outwards)) / abs(sideways) - _FINGER_REACH_M,
            (room_along - _FINGER_HALF_WIDTH_M * abs(sideways)) / max(abs(outwards), 1e-6) - _FINGER_REACH_M,
        )
        if radius > best_radius + _WORTH_ANOTHER_SIDE_M:
            best_radius, best_direction = radius, direction
    return best_radius, best_direction


@dataclass(frozen=True)
class _Grasp:
    """Where the hand has to be relative to the bowl's origin, and the axis along which its fingers open."""

    offset: Array  # (3,)
    finger_axis: Array  # (2,)


class ScriptedExpert:
    """Closed-loop controller; `act()` once per control step. Use `reset()` or a new object for every episode."""

    def __init__(self, scene: Scene, *, config: ExpertConfig | None = None) -> None:
        self.config = config or ExpertConfig()
        self._reader = StateReader(scene)
        self.reset()

    def reset(self) -> None:
        """Forget the episode."""
        self.phase = Phase.APPROACH
        self.num_grasps = 0
        self._phase_steps = 0
        self._in_drawer = False
        self._picked_at = np.zeros(3)
        self._gate = 0.0
        self._gate_radius = 0.0
        self._grip_point = np.zeros(3)
        self._finger_axis: Array | None = None

    def act(self) -> Array:
        """Action (7,) for the loaded episode: six deltas in [-1, 1], gripper -1 open / +1 close."""
        return self.decide(self._reader.read())

    def decide(self, state: ExpertState) -> Array:
        """Action (7,) for a state."""
        self._update_phase(state)
        self._phase_steps += 1
        if self.phase is Phase.APPROACH:
            return self._approach(state)
        if self.phase is Phase.GRASP:
            return self._grip(state)
        if self.phase is Phase.CARRY:
            return self._carry(state)
        return self._release(state)

    # Phases -----------------------------------------------------------------------------------------------------

    def _enter(self, phase: Phase) -> None:
        self.phase = phase
        self._phase_steps = 0

    def _update_phase(self, state: ExpertState) -> None:
        config = self.config
        if self.phase is Phase.APPROACH:
            error = self._grasp_point(state) - state.hand_pos
            error[2] += config.drawer_hover if state.drawer is not None else 0.0
            aligned = np.hypot(error[0], error[1]) < config.tolerance_xy and abs(error[2]) < config.tolerance_z
            if aligned and state.finger_gap > config.open_gap:
                self._in_drawer = state.drawer is not None
                self._grip_point = self._grasp_point(state)
                self._finger_axis = self._grasp(state).finger_axis
                self._picked_at = state.bowl.copy()
                self._gate, self._gate_radius = float(state.bowl[2]) + config.lift, 0.03
                if state.drawer is not None:
                    self._gate, self._gate_radius = state.drawer.top + 0.012, 0.15
                self.num_grasps += 1
                self._enter(Phase.GRASP)
        elif self.phase is Phase.GRASP:
            if state.finger_gap < config.held_gap or self._phase_steps >= config.max_close_steps:
                self._enter(Phase.CARRY)
        elif self.phase is Phase.CARRY:
            if self._rim_distance(state) > config.lost_distance:
                self._enter(Phase.APPROACH)
            elif self._over_plate(state) and state.bowl[2] - state.plate[2] < 0.012 and self._phase_steps > 10:
                self._enter(Phase.RELEASE)
        elif self._phase_steps >= config.max_release_steps:
            self._enter(Phase.APPROACH)

    def _approach(self, state: ExpertState) -> Array:
        """Go above the rim and come down on it; the remaining distance decides the height."""
        config = self.config
        target = self._grasp_point(state)
        distance = float(np.hypot(*(target - state.hand_pos)[:2]))
        target[2] += min(config.hover, config.approach_slope * max(0.0, distance - config.tolerance_xy))
        if state.drawer is not None:
            target[2] += config.drawer_hover
        self._finger_axis = None
        return self._action(state, target - state.hand_pos, OPEN)

    def _grip(self, state: ExpertState) -> Array:
        """Close the hand; in a drawer it comes down as it closes, to pass between bowl and wall."""
        target = self._grip_point - state.hand_pos
        if self._in_drawer:
            target[2] += np.clip(3 * (state.finger_gap - 0.045), 0.0, self.config.drawer_hover)
        return self._action(state, target, CLOSE)

    def _carry(self, state: ExpertState) -> Array:
        """Lift, move sideways once clear, and come down over the plate."""
        config = self.config
        error = state.plate - state.bowl
        distance = float(np.hypot(error[0], error[1]))
        height = config.carry_slope * max(0.0, distance - 0.02)
        ceiling = max(self._gate + 0.01 - state.plate[2], config.carry_height)
        error[2] += min(height, ceiling) - 0.01
        # Sideways only as far as the bowl has risen out of what it stood in.
        clear = np.clip(1 - (self._gate - state.bowl[2]) / 0.02, 0.0, 1.0) if self._near_start(state) else 1.0
        error[:2] *= clear
        return self._action(state, error, CLOSE)

    def _near_start(self, state: ExpertState) -> bool:
        return float(np.hypot(*(state.bowl - self._picked_at)[:2])) < self._gate_radius

    def _release(self, state: ExpertState) -> Array:
        """Open the hand where it is, then pull it up."""
        up = 0.05 if self._phase_steps > 4 else 0.0
        return self._action(state, np.array([0.0, 0.0, up]), OPEN)

    # Geometry ---------------------------------------------------------------------------------------------------

    def _grasp(self, state: ExpertState) -> _Grasp:
        """The rim's side facing +y; inside a drawer, the side where the outer finger finds most room."""
        config = self.config
        radius, depth = config.rim_radius, config.grip_depth
        direction = axis = np.array([0.0, 1.0])
        if state.drawer is not None:
            radius, direction = drawer_grasp(state.bowl, state.drawer, config.rim_radius)
            # Both ways round the fingers are on the same axis; take the smaller turn of the wrist.
            axis = direction if direction[1] > 0 or direction[0] < 0 else -direction
            depth = config.drawer_depth
        offset = np.array([*(radius * direction), config.rim_height - depth])
        return _Grasp(offset=offset, finger_axis=axis)

    def _grasp_point(self, state: ExpertState) -> Array:
        return state.bowl + self._grasp(state).offset

    def _hand_mat(self, state: ExpertState) -> Array:
        """Straight down near the robot; leaning outwards where the arm would be stretched to its singularity."""
        axis = self._grasp(state).finger_axis if self._finger_axis is None else self._finger_axis
        reach = float(np.hypot(*(state.hand_pos[:2] - _ROBOT_XY)))
        return _hand_matrix(axis, self.config.tilt_per_metre * max(0.0, reach - self.config.straight_reach))

    def _rim_distance(self, state: ExpertState) -> float:
        """How far the hand is from the nearest point of the rim."""
        radial = float(np.hypot(*(state.hand_pos - state.bowl)[:2])) - self.config.rim_radius
        vertical = float(state.hand_pos[2] - state.bowl[2]) - (self.config.rim_height - self.config.grip_depth)
        return math.hypot(radial, vertical)

    def _over_plate(self, state: ExpertState) -> bool:
        return float(np.hypot(*(state.plate - state.bowl)[:2])) < 0.02

    def _action(self, state: ExpertState, move: Array, gripper: float) -> Array:
        """Action towards a displacement (3,) and the hand's orientation; saturated speed keeps its direction."""
        hand_mat = self._hand_mat(state)
        position = self.config.position_gain * move / POSITION_PER_ACTION_M
        turn = self.config.rotation_gain * rotation_vector(hand_mat @ state.hand_mat.T) / ROTATION_PER_ACTION_RAD
        for part in (position, turn):
            part /= max(1.0, float(np.abs(part).max()))
        return np.concatenate([position, turn, [gripper]])
