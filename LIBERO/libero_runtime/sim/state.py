"""An episode at rest, as arrays; what is seen of it; and where it starts.

N cameras, H and W pixels, C colours.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from libero_runtime.commands import LiberoError
from libero_runtime.suites import TaskSpec, init_states

Array = NDArray[np.float64]
CONTROL_HZ = 20
PROPRIO_DIM = 8
IDLE_ACTION = np.array([0.0] * 6 + [-1.0])


class SimulationError(RuntimeError):
    """MuJoCo's state went bad; the message names task, initial state, step and MuJoCo's warning."""


@dataclass(frozen=True)
class View:
    """What a policy sees."""

    images_NHWC: NDArray[np.uint8]
    proprio: NDArray[np.float32]  # (8,)


@dataclass(frozen=True)
class Pose:
    """What an image of an episode depends on."""

    fixture_pos: Array  # (num_fixtures, 3): not part of MuJoCo's state
    fixture_quat: Array  # (num_fixtures, 4)
    drawn_qpos: Array  # (nq,) positions of everything, one substep ago: stock's observations lag likewise
    qpos: Array  # (nq,) present positions: a burner is lit by its knob's


@dataclass(frozen=True)
class EpisodeState:
    """One episode at rest, as plain arrays; valid for any `Scene` built for the same task and options."""

    integration: Array  # MuJoCo's integration state
    controller: Array  # (15,) see kernel.layout.STATE_SIZE
    pose: Pose
    init_index: int
    seed: int
    num_steps: int = 0  # control steps since the idle steps ended
    success: bool = False  # goal predicate after the last step


@dataclass(frozen=True)
class Advance:
    """What came of a chunk in one episode, before anything is drawn."""

    state: EpisodeState
    success: list[bool]  # goal predicate after each simulated action
    proprio: NDArray[np.float32]
    recorded: list[Pose]  # at steps to be drawn
    failure: str | None  # why the episode cannot go on; `state` is then the one before the chunk


def start_seed(*, task_id: int, init_index: int, seed: int) -> int:
    """32-bit seed of everything random in an episode start."""
    return int(np.random.SeedSequence([task_id, init_index, seed]).generate_state(1)[0])


def check_start(task: TaskSpec, *, init_index: int, seed: int) -> None:
    """Raise when a task has no such initial state, or the seed is not one."""
    num_states = len(init_states(task))
    if not 0 <= init_index < num_states:
        raise LiberoError(
            f"init_index {init_index} is out of range: task {task.task_id} of {task.suite} has "
            f"initial states 0 to {num_states - 1}"
        )
    if seed < 0:
        raise LiberoError(f"seed {seed} of an episode start must not be negative")


def axis_angle(quat_wxyz: Array) -> Array:
    """Rotation vector (3,) of a unit quaternion; the angle is in [0, 2 pi], as robosuite's own conversion."""
    w = min(max(float(quat_wxyz[0]), -1.0), 1.0)
    scale = math.sqrt(1.0 - w * w)
    if scale == 0.0:
        return np.zeros(3)
    return (quat_wxyz[1:] * 2.0 * math.acos(w)) / scale
