"""Does fast stepping do what stock LIBERO does? From the same state with the same actions, on any task.

    python -m libero_runtime.fidelity [--suites libero_spatial,libero_goal] [--tasks 0-9] [--steps 100] [--jobs 2]

Stock is LIBERO's own `ControlEnv` with robosuite's controller and step loop (without a renderer). It settles an
episode by the customary ten idle steps; its state is then loaded into a `Scene`, and both run the same actions: towards
one of the task's objects, down on it, close the gripper, lift, with noise (an open-loop record of a run of ours).

Contacts amplify the smallest difference, in stock too: from states that differ by 1e-9 stock's own runs part. How far
they do is measured here with three stock runs from states perturbed by 1e-9, 1e-8 and 1e-8 (joint positions, object
positions, velocities): 1e-8 m is how far ours, with sums in another order, is from stock while nothing amplifies. A
joint or object counts as chaotic from the step at which a twin is further away than a tenth of the tolerance; until
then ours must stay within the tolerance. Rewards and success must be equal until anything is chaotic.

Exit code 0 when every task passes, 1 when one fails, 2 when none fails but one cannot be run.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from libero_runtime.asset_files import check_assets
from libero_runtime.commands import OptionError, run_command
from libero_runtime.controller import ExactController
from libero_runtime.models import free_env, quiet_robosuite
from libero_runtime.number_lists import parse_numbers
from libero_runtime.opengl import select_opengl
from libero_runtime.paths import prepare_libero
from libero_runtime.scene import IDLE_ACTION, Scene
from libero_runtime.slots import Pose, Slot, start_seed
from libero_runtime.stepper import STATE, integration_state
from libero_runtime.suites import SUITES, TaskSpec, init_states, load_suite

Array = NDArray[np.float64]
JOINT_TOLERANCE = 1e-3  # radians; metres for fingers and drawers
OBJECT_TOLERANCE_M = 1e-3
_CHAOS = 0.1  # of a tolerance: where a perturbed stock run has got this far, contacts amplify
_PERTURBATIONS = (1e-9, 1e-8, 1e-8)
_REACH_M = 0.05  # distance from which the hand is moved at full speed
_NOISE = 0.1


@dataclass(frozen=True)
class Run:
    """What is compared, after each of T steps."""

    joints_TJ: Array  # every hinge and slide joint: arm, fingers, drawers, doors, knobs
    objects_TO3: Array  # positions of free bodies
    reward_T: Array
    success_T: NDArray[np.bool_]


@dataclass(frozen=True)
class Report:
    """The verdict on one task."""

    task: str
    joint_error: float  # largest difference before chaos
    object_error_m: float
    calm_share: float  # of (joint or object, step) pairs that no chaos touches
    chaos_error_m: float  # largest difference of an object in chaos, ours to stock
    twin_error_m: float  # largest difference of an object, stock to perturbed stock
    success_equal: bool
    problem: str = ""

    @property
    def passed(self) -> bool:
        """Within tolerances, with equal rewards and success."""
        close = self.joint_error <= JOINT_TOLERANCE and self.object_error_m <= OBJECT_TOLERANCE_M
        return not self.problem and close and self.success_equal


class Layout:
    """Where joints and free objects are in qpos."""

    def __init__(self, model: mujoco.MjModel) -> None:
        free = model.jnt_type == mujoco.mjtJoint.mjJNT_FREE
        self.joints = model.jnt_qposadr[~free]
        self.objects = model.jnt_qposadr[free][:, None] + np.arange(3)


class Stock:
    """LIBERO's own environment of a task, settled in one initial state at a time.

    Raises a `ValueError` when it cannot be built: robosuite and MuJoCo raise no other for files that are not right.
    """

    def __init__(self, task: TaskSpec, *, init_index: int, seed: int, num_idle_steps: int = 10) -> None:
        select_opengl()
        prepare_libero()
        quiet_robosuite()
        check_assets(task)  # names all that is missing, where robosuite stops at the first
        from libero.libero.envs.env_wrapper import ControlEnv

        self.task = task
        self.control_env = ControlEnv(
            bddl_file_name=str(task.bddl_path), use_camera_obs=False, has_renderer=False, has_offscreen_renderer=False
        )
        self._num_idle_steps = num_idle_steps
        self.settle(init_index=init_index, seed=seed)

    def settle(self, *, init_index: int, seed: int) -> None:
        """Reset, as stock does it, and let the objects of an initial state fall."""
        self.control_env.seed(start_seed(task_id=self.task.task_id, init_index=init_index, seed=seed))
        self.control_env.reset()
        self.control_env.set_init_state(init_states(self.task)[init_index])
        for _ in range(self._num_idle_steps):
            self.control_env.step(IDLE_ACTION)
        self.env: Any = self.control_env.env
        self.model: mujoco.MjModel = self.env.sim.model._model
        self.data: mujoco.MjData = self.env.sim.data._data
        self.controller = ExactController(self.env)
        self.layout = Layout(self.model)
        self._integration = integration_state(self.model, self.data)
        self._controller_state = self.controller.get_state()

    def slot(self, *, init_index: int, seed: int) -> Slot:
        """The settled state for a `Scene` of the same task."""
        bodies = [self.env.sim.model.body_name2id(fixture.root_body) for fixture in self.env.fixtures_dict.values()]
        qpos = self.data.qpos.copy()
        pose = Pose(self.model.body_pos[bodies].copy(), self.model.body_quat[bodies].copy(), qpos, qpos)
        return Slot(
            integration=self._integration.copy(),
            controller=self._controller_state.copy(),
            pose=pose,
            init_index=init_index,
            seed=seed,
        )

    def run(self, actions_TA: Array, *, perturbation: float = 0.0, seed: int = 0) -> Run:
        """Run from the settled state, or from one `perturbation` away."""
        mujoco.mj_setState(self.model, self.data, self._integration, STATE)
        self.controller.set_state(self._controller_state)
        if perturbation:
            rng = np.random.default_rng(seed)
            self.data.qpos[self.layout.joints] += perturbation * rng.choice([-1.0, 1.0], len(self.layout.joints))
            self.data.qpos[self.layout.objects] += perturbation * rng.choice([-1.0, 1.0], self.layout.objects.shape)
            self.data.qvel[:] += perturbation * rng.choice([-1.0, 1.0], self.model.nv)
        self.env.timestep, self.env.done = 0, False
        joints, objects, rewards, success = [], [], [], []
        for action in actions_TA:
            _, reward, done, _ = self.control_env.step(action)
            joints.append(self.data.qpos[self.layout.joints].copy())
            objects.append(self.data.qpos[self.layout.objects].copy())
            rewards.append(float(reward))
            success.append(bool(done))
        return Run(np.array(joints), np.array(objects), np.array(rewards), np.array(success))

    def close(self) -> None:
        """Free it."""
        self.control_env.close()
        free_env(self.env)


def run_ours(scene: Scene, slot: Slot, actions_TA: Array) -> Run:
    """The same in our fast loop; a reward is 1 at success, as in LIBERO."""
    layout = Layout(scene.model)
    scene.load(slot)
    joints, objects, success = [], [], []
    for action in actions_TA:
        success.append(scene.step(action))
        joints.append(scene.data.qpos[layout.joints].copy())
        objects.append(scene.data.qpos[layout.objects].copy())
    success_T = np.array(success)
    return Run(np.array(joints), np.array(objects), success_T.astype(np.float64), success_T)


def visiting_actions(scene: Scene, slot: Slot, num_steps: int, *, seed: int) -> Array:
    """Actions (T, 7) that go over an object, down on it, close the gripper and lift, in fifths of the time."""
    rng = np.random.default_rng(seed)
    objects = Layout(scene.model).objects
    scene.load(slot)
    scene.refresh()
    target_index = objects[seed % len(objects)]
    actions = []
    for step in range(num_steps):
        phase = 5 * step // num_steps
        target = scene.data.qpos[target_index] + [0.0, 0.0, (0.15, 0.0, 0.0, 0.0, 0.2)[phase]]
        move = np.clip((target - scene.proprio()[:3]) / _REACH_M, -1.0, 1.0)
        action = np.concatenate([move, np.zeros(3), [1.0 if phase >= 3 else -1.0]])
        action[:6] = np.clip(action[:6] + _NOISE * rng.standard_normal(6), -1.0, 1.0)
        actions.append(action)
        scene.step(action)
    return np.array(actions)


def compare(name: str, ours: Run, stock: Run, twins: Sequence[Run]) -> Report:
    """Judge a run of ours against stock's, with perturbed stock runs as the measure of chaos."""
    joint_TJ = np.abs(ours.joints_TJ - stock.joints_TJ)
    object_TO = np.linalg.norm(ours.objects_TO3 - stock.objects_TO3, axis=2)
    twin_TJ = np.max([np.abs(twin.joints_TJ - stock.joints_TJ) for twin in twins], axis=0)
    twin_TO = np.max([np.linalg.norm(twin.objects_TO3 - stock.objects_TO3, axis=2) for twin in twins], axis=0)
    calm_TJ = np.maximum.accumulate(twin_TJ, axis=0) <= _CHAOS * JOINT_TOLERANCE
    calm_TO = np.maximum.accumulate(twin_TO, axis=0) <= _CHAOS * OBJECT_TOLERANCE_M
    calm_T = calm_TJ.all(axis=1) & calm_TO.all(axis=1)
    alike_T = (ours.success_T == stock.success_T) & (ours.reward_T == stock.reward_T)
    return Report(
        task=name,
        joint_error=float(np.where(calm_TJ, joint_TJ, 0.0).max()),
        object_error_m=float(np.where(calm_TO, object_TO, 0.0).max(initial=0.0)),
        calm_share=float(np.concatenate([calm_TJ.ravel(), calm_TO.ravel()]).mean()),
        chaos_error_m=float(np.where(calm_TO, 0.0, object_TO).max(initial=0.0)),
        twin_error_m=float(twin_TO.max(initial=0.0)),
        success_equal=bool(alike_T[calm_T].all()),
    )


def check_task(suite: str, task_id: int, *, num_steps: int, init_index: int = 0, seed: int = 0) -> Report:
    """Compare on one task."""
    name = f"{suite} {task_id}"
    try:
        task = load_suite(suite).task(task_id)
        stock = Stock(task, init_index=init_index, seed=seed)
        scene = Scene(task, image_size=16)
    except ValueError as error:
        return Report(name, 0.0, 0.0, 0.0, 0.0, 0.0, True, problem=str(error))
    slot = stock.slot(init_index=init_index, seed=seed)
    actions_TA = visiting_actions(scene, slot, num_steps, seed=task_id)
    stock_run = stock.run(actions_TA)
    twins = [stock.run(actions_TA, perturbation=size, seed=twin) for twin, size in enumerate(_PERTURBATIONS)]
    report = compare(name, run_ours(scene, slot, actions_TA), stock_run, twins)
    scene.close()
    stock.close()
    return report


def _check(job: tuple[str, int, int]) -> Report:
    suite, task_id, num_steps = job
    return check_task(suite, task_id, num_steps=num_steps)


def _row(report: Report) -> str:
    if report.problem:
        return f"| {report.task:<18} | cannot run: {report.problem}"
    return (
        f"| {report.task:<18} | {report.joint_error:9.1e} | {report.object_error_m * 1e3:10.1e} | "
        f"{report.calm_share:6.1%} | {report.chaos_error_m * 1e3:9.1e} | {report.twin_error_m * 1e3:9.1e} | "
        f"{'equal' if report.success_equal else 'DIFFER':<7} | {'pass' if report.passed else 'FAIL'} |"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Check the asked tasks and print a table."""
    parser = task_parser(__doc__)
    parser.add_argument("--steps", type=int, default=100, help="control steps")
    args = parser.parse_args(arguments)
    return run_command(lambda: _check_tasks(args))


def task_parser(description: str | None) -> argparse.ArgumentParser:
    """A parser of the options that say which tasks are checked, for `chosen_tasks`."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suites", default=",".join(SUITES), help="separated by commas")
    parser.add_argument("--tasks", default="0-9", help="such as 0-3,7")
    parser.add_argument("--jobs", type=int, default=1, help="tasks checked at the same time")
    return parser


def chosen_tasks(args: argparse.Namespace) -> list[TaskSpec]:
    """The tasks that the options name; all of them must be there."""
    if args.jobs < 1:
        raise OptionError(f"--jobs {args.jobs} must be at least 1")
    task_ids = parse_numbers(args.tasks)
    return [load_suite(suite.strip()).task(task_id) for suite in args.suites.split(",") for task_id in task_ids]


def _check_tasks(args: argparse.Namespace) -> int:
    if args.steps < 1:
        raise OptionError(f"--steps {args.steps} must be at least 1")
    jobs = [(task.suite, task.task_id, args.steps) for task in chosen_tasks(args)]
    select_opengl()
    prepare_libero()
    sys.stdout.write(
        f"| {f'{args.steps} steps':<18} | before chaos:          | share  | in chaos: | perturbed | rewards |      |\n"
        f"| {'suite and task':<18} | joints    | objects mm | calm   | ours mm   | stock mm  | success |      |\n"
        f"|{'-' * 20}|{'-' * 11}|{'-' * 12}|{'-' * 8}|{'-' * 11}|{'-' * 11}|{'-' * 9}|{'-' * 6}|\n"
    )
    reports = []
    with multiprocessing.get_context("spawn").Pool(args.jobs) as pool:
        for report in pool.imap(_check, jobs):
            reports.append(report)
            sys.stdout.write(_row(report) + "\n")
            sys.stdout.flush()
    passed = sum(report.passed for report in reports)
    not_run = sum(bool(report.problem) for report in reports)
    others = f", {not_run} cannot be run" if not_run else ""
    sys.stdout.write(
        f"{passed} of {len(reports)} tasks pass{others}: joints within {JOINT_TOLERANCE:g}, objects within "
        f"{OBJECT_TOLERANCE_M * 1e3:g} mm, until a stock run perturbed by 1e-8 is {_CHAOS:.0%} of it off\n"
    )
    return exit_code(reports)


def exit_code(reports: Sequence[Report]) -> int:
    """0 when all pass, 1 when one fails, 2 when none fails but one cannot be run."""
    if any(not report.passed and not report.problem for report in reports):
        return 1
    return 2 if any(report.problem for report in reports) else 0


if __name__ == "__main__":
    raise SystemExit(main())
