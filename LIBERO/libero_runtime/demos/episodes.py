"""One demonstration: run the scripted expert in a scene and keep what LIBERO's datasets keep.

T control steps. Every observation is what was seen *before* the action of the same index. Images are drawn from the
poses afterwards, of successful episodes only: what an episode looks like decides nothing in it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import mujoco
import numpy as np
from numpy.typing import NDArray

from libero_runtime.expert import GaveUpError, ScriptedExpert
from libero_runtime.options import Option
from libero_runtime.sim.scene import Scene
from libero_runtime.sim.state import IDLE_ACTION, Pose
from libero_runtime.suites import STANDARD_SUITES

MAX_STEPS = {name: suite.max_steps for name, suite in STANDARD_SUITES.items()}
_STACKED_M = 0.03  # objects whose centres are closer than this in the plane stand on each other: they move together
_NUM_SETTLE_STEPS = 5


@dataclass(frozen=True)
class AttemptPlan:
    """Where an episode begins, and its seeds."""

    init_index: int
    scene_seed: int  # poses of the fixtures
    seed: int  # noise and jitter


@dataclass(frozen=True)
class EpisodeOptions:
    """What all episodes of a run share."""

    noise: Annotated[float, Option("spread of the noise on the executed motion", least=0)] = 0.05
    record: Annotated[
        str,
        Option(
            "action kept: the expert's at the visited state, or the noisy one that was executed",
            choices=("expert", "executed"),
        ),
    ] = "expert"
    init_jitter: Annotated[float, Option("metres by which objects are moved at the start", least=0)] = 0.0
    max_steps: Annotated[
        int, Option("an episode is given up after so many (default: the suite's own limit)", least=1)
    ] = 220
    max_grasps: Annotated[int, Option("an episode is given up after so many attempts at one thing", least=1)] = 3


@dataclass(frozen=True)
class Demonstration:
    """A recorded episode."""

    actions_TA: NDArray[np.float32]
    states_TS: NDArray[np.float64]  # time, qpos, qvel
    proprio_TP: NDArray[np.float32]  # end-effector position 3, axis-angle 3, finger positions 2
    joints_TJ: NDArray[np.float32]
    poses: tuple[Pose, ...]  # T of them: what `Scene.draw` needs
    success: bool


@dataclass(frozen=True)
class Attempt:
    """How an episode went."""

    success: bool
    num_steps: int


def try_episode(
    scene: Scene,
    plan: AttemptPlan,
    options: EpisodeOptions,
    *,
    watch: Callable[[NDArray[np.float64]], None] | None = None,
) -> Attempt:
    """Run one episode from its start, at which nothing is drawn; see `play`."""
    rng = np.random.default_rng(plan.seed)
    scene.load(scene.settled_start(init_index=plan.init_index, seed=plan.scene_seed)[0])
    if options.init_jitter > 0:
        _jitter_objects(scene, rng, options.init_jitter)
    return play(scene, options, rng, watch=watch)


def play(
    scene: Scene,
    options: EpisodeOptions,
    rng: np.random.Generator,
    *,
    watch: Callable[[NDArray[np.float64]], None] | None = None,
) -> Attempt:
    """Run the loaded episode to its success, or to `max_steps` or `max_grasps`, or until the expert gives up.

    `watch` is called before every step with the action (7,) to keep; nothing is drawn unless it does so.
    """
    scene.refresh()
    expert = ScriptedExpert(scene)
    num_steps, success = 0, False
    while num_steps < options.max_steps and not success:
        try:
            wanted = expert.act()
        except GaveUpError:
            break
        if expert.num_attempts > options.max_grasps:
            break
        executed = wanted.copy()
        executed[:6] = np.clip(executed[:6] + options.noise * rng.standard_normal(6), -1.0, 1.0)
        if watch is not None:
            watch(wanted if options.record == "expert" else executed)
        success = scene.step(executed)
        num_steps += 1
    return Attempt(success, num_steps)


def run_episode(scene: Scene, plan: AttemptPlan, options: EpisodeOptions) -> Demonstration:
    """Run one episode and record it."""
    data = scene.data
    arm = [int(scene.model.joint(f"robot0_joint{number}").qposadr[0]) for number in range(1, 8)]
    actions, states, proprio, joints, poses = [], [], [], [], []

    def watch(action: NDArray[np.float64]) -> None:
        actions.append(action)
        states.append(np.concatenate([[data.time], data.qpos, data.qvel]))
        proprio.append(scene.proprio())
        joints.append(data.qpos[arm].copy())
        poses.append(scene.save().pose)

    attempt = try_episode(scene, plan, options, watch=watch)
    return Demonstration(
        actions_TA=np.asarray(actions, dtype=np.float32),
        states_TS=np.asarray(states, dtype=np.float64),
        proprio_TP=np.asarray(proprio, dtype=np.float32),
        joints_TJ=np.asarray(joints, dtype=np.float32),
        poses=tuple(poses),
        success=attempt.success,
    )


def _jitter_objects(scene: Scene, rng: np.random.Generator, reach: float) -> None:
    """Shift every stack of movable objects by up to `reach` metres along x and y, and let it come to rest."""
    model, data = scene.model, scene.data
    free = np.flatnonzero(model.jnt_type == mujoco.mjtJoint.mjJNT_FREE)
    addresses = [int(model.jnt_qposadr[joint]) for joint in free]
    shifted: list[tuple[NDArray[np.float64], NDArray[np.float64]]] = []
    for address in addresses:
        position = data.qpos[address : address + 2].copy()
        # One draw per object whether it is used or not, so that a stack does not change the others' shifts.
        shift = rng.uniform(-reach, reach, size=2)
        for other, other_shift in shifted:
            if np.linalg.norm(position - other) < _STACKED_M:
                shift = other_shift
        shifted.append((position, shift))
        data.qpos[address : address + 2] += shift
    for _ in range(_NUM_SETTLE_STEPS):
        scene.step(IDLE_ACTION)
