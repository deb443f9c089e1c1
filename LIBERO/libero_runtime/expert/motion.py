"""The action law: from a wanted displacement and orientation of the hand to one action of the environment.

World frame: x away from the robot, y to its left, z up; metres, radians. A hand's matrix has the axis along which its
fingers open as first column and the direction it points to as third.
"""

import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

# What an action of 1 asks for (LIBERO's OSC_POSE configuration).
POSITION_PER_ACTION_M = 0.05
ROTATION_PER_ACTION_RAD = 0.5
OPEN, CLOSE = -1.0, 1.0
POSITION_GAIN = 2.5  # action per distance, in units of one action's reach
ROTATION_GAIN = 1.5
STRAIGHT_REACH_M = 0.62  # furthest from the arm's first axis that the hand points straight down
NEAREST_REACH_M = 0.33  # closer than that the elbow would be folded to its limit
TILT_PER_METRE = 1.7  # lean beyond either: at 0.8 m the wrist must stay 6 cm behind the fingers


def rotation_vector(matrix: Array) -> Array:
    """Axis times angle (3,) of a rotation matrix, for angles below 180 degrees."""
    twice_sine_axis = np.array([matrix[2, 1] - matrix[1, 2], matrix[0, 2] - matrix[2, 0], matrix[1, 0] - matrix[0, 1]])
    sine, cosine = float(np.linalg.norm(twice_sine_axis)) / 2, (float(np.trace(matrix)) - 1) / 2
    if sine < 1e-9:
        return np.zeros(3)
    return np.asarray(twice_sine_axis / (2 * sine) * math.atan2(sine, cosine))


def rotation_about_z(angle: float) -> Array:
    """Matrix of a turn about the vertical."""
    cosine, sine = math.cos(angle), math.sin(angle)
    return np.array([[cosine, -sine, 0.0], [sine, cosine, 0.0], [0.0, 0.0, 1.0]])


def preferred_axis(axis: Array) -> Array:
    """The same line (2,) in the direction that keeps the wrist's last joint near the middle of its range."""
    x, y = float(axis[0]), float(axis[1])
    return axis if y > 1e-6 or (abs(y) <= 1e-6 and x < 0) else -axis


def _hand(fingers: Array, pointing: Array) -> Array:
    """Matrix (3, 3) of a hand from two of its axes."""
    px, py, pz = pointing.tolist()
    fx, fy, fz = fingers.tolist()
    return np.array(
        [[fx, py * fz - pz * fy, px], [fy, pz * fx - px * fz, py], [fz, px * fy - py * fx, pz]]
    )  # numpy's cross product takes ten times as long


def upright_hand(finger_axis: Array, lean: float) -> Array:
    """Hand that points down, its fingers opening along a horizontal unit vector (2,).

    It leans by `lean` towards +x where that turns it about its fingers' axis: they stay level.
    """
    x, y = float(finger_axis[0]), float(finger_axis[1])
    sine, cosine = math.sin(lean * abs(y)), math.cos(lean * abs(y))
    outwards = np.array([abs(y), -x if y >= 0 else x, 0.0])
    fingers = np.array([x, y, 0.0])
    pointing = sine * outwards - cosine * np.array([0.0, 0.0, 1.0])
    return _hand(fingers, pointing)


def lean_at(hand_pos: Array, robot_xy: Array) -> float:
    """How far an upright hand leans outwards where the arm would be stretched, and inwards where it would be folded."""
    reach = float(np.hypot(*(hand_pos[:2] - robot_xy)))
    return TILT_PER_METRE * (max(0.0, reach - STRAIGHT_REACH_M) - max(0.0, NEAREST_REACH_M - reach))


def facing_hand(direction: Array, dip: float) -> Array:
    """Hand that points along a horizontal unit vector (2,), `dip` radians below it, fingers opening up and down.

    At a dip of 90 degrees it points straight down and its fingers open along the direction.
    """
    sine, cosine = math.sin(dip), math.cos(dip)
    forward = np.array([direction[0], direction[1], 0.0])
    up = np.array([0.0, 0.0, 1.0])
    pointing = cosine * forward - sine * up
    fingers = sine * forward + cosine * up
    return _hand(fingers, pointing)


def reaching_hand(direction: Array, dip: float) -> Array:
    """Hand that points along a horizontal unit vector (2,), `dip` radians below it, fingers opening sideways.

    Of the two such hands this is the one whose wrist bulges upwards.
    """
    pointing = facing_hand(direction, dip)[:, 2]
    fingers = np.array([direction[1], -direction[0], 0.0])
    return _hand(fingers, pointing)


def nearer_of_both(hand_mat: Array, present_mat: Array) -> Array:
    """Whichever needs the smaller turn: a hand, or the same with its two fingers in each other's place."""
    other = hand_mat * np.array([-1.0, -1.0, 1.0])
    turns = [float(np.trace(candidate @ present_mat.T)) for candidate in (hand_mat, other)]
    return hand_mat if turns[0] >= turns[1] else other


def action(*, move: Array, hand_mat: Array, present_mat: Array, gripper: float) -> Array:
    """Action (7,) towards a displacement (3,) and an orientation; saturated speed keeps its direction."""
    position = POSITION_GAIN * move / POSITION_PER_ACTION_M
    turn = ROTATION_GAIN * rotation_vector(hand_mat @ present_mat.T) / ROTATION_PER_ACTION_RAD
    for part in (position, turn):
        part /= max(1.0, float(np.abs(part).max()))
    return np.concatenate([position, turn, [gripper]])
