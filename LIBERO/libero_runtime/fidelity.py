"""Does fast stepping do what stock LIBERO does? From the same state with the same actions, on any task.

    python -m libero_runtime.fidelity [--suites libero_spatial,libero_goal] [--tasks 0-9] [--steps 100] [--jobs 2]

Stock is LIBERO's own `ControlEnv` with robosuite's controller and step loop (without a renderer). It settles an
episode by the customary ten idle steps; its state is then loaded into a `Scene`, and both run the same actions: towards
one of the task's objects, down on it, close the gripper, lift, with noise (an open-loop record of a run of ours).

Two things blur a comparison, and both are stock's. Contacts amplify the smallest difference: from states that differ by
1e-9 stock's own runs part. And stock's solver stops where the next iteration promises less than its tolerance; in a few
substeps of a run this leaves velocities of light objects open by 1e-3 rad/s, which nothing in a state tells. Hence two
references, stock as it is and converged stock (the same with a solver tolerance of 1e-12), and two comparisons:

- Step by step: from each state that converged stock passes through, one control step of ours against one of its own,
  all of `qpos` within `STEP_TOLERANCE`. Left out are steps where stock is a tenth of it off when it starts 1e-9 away,
  or from the same state with its sums in another order or a solver tolerance of 1e-13 (there are objects that hop by
  micrometres in a substep, or do not).
- Whole runs: ours against both references. A joint or object counts as chaotic from the step at which a twin of the
  reference is further away than a tenth of the tolerance; until then ours must stay within it. Twins are three runs
  from states perturbed by 1e-9, 1e-8 and 1e-8 (joint positions, object positions, velocities: 1e-8 m is how far ours,
  with sums in another order, is from stock while nothing amplifies), and for stock as it is also converged stock.
  Rewards and success must be equal until anything is chaotic.

Exit code 0 when every task passes, 1 when one fails, 2 when none fails but one cannot be run.
"""

import multiprocessing
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from libero_runtime.fidelity_stock import Layout, Record, Run, Stock
from libero_runtime.opengl import select_opengl
from libero_runtime.options import Option, run_with_options
from libero_runtime.paths import prepare_libero
from libero_runtime.sim.scene import Scene
from libero_runtime.sim.state import EpisodeState
from libero_runtime.suites import TaskOptions, load_suite

Array = NDArray[np.float64]
JOINT_TOLERANCE = 1e-3  # radians; metres for fingers and drawers
OBJECT_TOLERANCE_M = 1e-3
STEP_TOLERANCE = 1e-6  # of every number in qpos (radians, metres, parts of quaternions) after one control step
_CHAOS = 0.1  # of a tolerance: where a perturbed stock run has got this far, contacts amplify
_REACH_M = 0.05  # distance from which the hand is moved at full speed
_NOISE = 0.1


@dataclass(frozen=True)
class Verdict:
    """A whole run of ours against one reference."""

    joint_error: float  # largest difference before chaos
    object_error_m: float
    calm_share: float  # of (joint or object, step) pairs that no chaos touches
    chaos_error_m: float  # largest difference of an object in chaos, ours to the reference
    twin_error_m: float  # largest difference of an object, the reference to its twins
    success_equal: bool  # until anything is chaotic

    @property
    def passed(self) -> bool:
        """Within tolerances, with equal rewards and success."""
        close = self.joint_error <= JOINT_TOLERANCE and self.object_error_m <= OBJECT_TOLERANCE_M
        return close and self.success_equal


@dataclass(frozen=True)
class Report:
    """The verdict on one task."""

    task: str
    step_error: float  # largest difference after one control step
    step_share: float  # of steps that are compared: contacts do not amplify in them
    stock: Verdict
    converged: Verdict

    @property
    def passed(self) -> bool:
        """Every step and both whole runs."""
        return self.step_error <= STEP_TOLERANCE and self.stock.passed and self.converged.passed


@dataclass(frozen=True)
class NotRun:
    """Why a task cannot be compared."""

    task: str
    problem: str


def run_ours(scene: Scene, state: EpisodeState, actions_TA: Array) -> Run:
    """The same in our fast loop; a reward is 1 at success, as in LIBERO."""
    layout = Layout(scene.model)
    scene.load(state)
    joints, objects, success = [], [], []
    for action in actions_TA:
        success.append(scene.step(action))
        joints.append(scene.data.qpos[layout.joints].copy())
        objects.append(scene.data.qpos[layout.objects].copy())
    success_T = np.array(success)
    return Run(np.array(joints), np.array(objects), success_T.astype(np.float64), success_T)


def visiting_actions(scene: Scene, state: EpisodeState, num_steps: int, *, seed: int) -> Array:
    """Actions (T, 7) that go over an object, down on it, close the gripper and lift, in fifths of the time."""
    rng = np.random.default_rng(seed)
    objects = Layout(scene.model).objects
    scene.load(state)
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


def step_by_step(scene: Scene, state: EpisodeState, record: Record) -> tuple[float, float]:
    """Largest difference after one control step from stock's states, and the share of steps that tell."""
    qpos_TQ = []
    for (integration, controller), action in zip(record.starts, record.actions_TA, strict=True):
        scene.load(replace(state, integration=integration, controller=controller))
        scene.step(action)
        qpos_TQ.append(scene.data.qpos.copy())
    twin_T = np.max([np.abs(twin_TQ - record.qpos_TQ).max(axis=1) for twin_TQ in record.twins_qpos_TQ], axis=0)
    calm_T = twin_T <= _CHAOS * STEP_TOLERANCE
    error_T = np.abs(np.array(qpos_TQ) - record.qpos_TQ).max(axis=1)
    return float(error_T[calm_T].max(initial=0.0)), float(calm_T.mean())


def compare(ours: Run, stock: Run, *twins: Run) -> Verdict:
    """Judge a run of ours against stock's, with its twins as the measure of chaos."""
    joint_TJ = np.abs(ours.joints_TJ - stock.joints_TJ)
    object_TO = np.linalg.norm(ours.objects_TO3 - stock.objects_TO3, axis=2)
    twin_TJ = np.max([np.abs(twin.joints_TJ - stock.joints_TJ) for twin in twins], axis=0)
    twin_TO = np.max([np.linalg.norm(twin.objects_TO3 - stock.objects_TO3, axis=2) for twin in twins], axis=0)
    calm_TJ = np.maximum.accumulate(twin_TJ, axis=0) <= _CHAOS * JOINT_TOLERANCE
    calm_TO = np.maximum.accumulate(twin_TO, axis=0) <= _CHAOS * OBJECT_TOLERANCE_M
    calm_T = calm_TJ.all(axis=1) & calm_TO.all(axis=1)
    alike_T = (ours.success_T == stock.success_T) & (ours.reward_T == stock.reward_T)
    return Verdict(
        joint_error=float(np.where(calm_TJ, joint_TJ, 0.0).max()),
        object_error_m=float(np.where(calm_TO, object_TO, 0.0).max(initial=0.0)),
        calm_share=float(np.concatenate([calm_TJ.ravel(), calm_TO.ravel()]).mean()),
        chaos_error_m=float(np.where(calm_TO, 0.0, object_TO).max(initial=0.0)),
        twin_error_m=float(twin_TO.max(initial=0.0)),
        success_equal=bool(alike_T[calm_T].all()),
    )


def judge(name: str, scene: Scene, state: EpisodeState, record: Record) -> Report:
    """Do with a scene what stock was recorded doing, and compare."""
    step_error, step_share = step_by_step(scene, state, record)
    ours = run_ours(scene, state, record.actions_TA)
    return Report(name, step_error, step_share, compare(ours, *record.stock), compare(ours, *record.converged))


def check_task(suite: str, task_id: int, num_steps: int) -> Report | NotRun:
    """Compare on one task."""
    name = f"{suite} {task_id}"
    try:
        task = load_suite(suite).task(task_id)
        scene, stock = Scene(task, image_size=16), Stock(task)
        state = stock.settle(init_index=0, seed=0)
    except ValueError as error:
        return NotRun(name, str(error))
    record = stock.record(visiting_actions(scene, state, num_steps, seed=task_id))
    report = judge(name, scene, state, record)
    scene.close()
    stock.close()
    return report


_HEAD = """\
| {steps:<18} | step by step       | against stock                 | against converged stock       | in chaos (mm):    |         |      |
| suite and task     | qpos     | share   | joints   | objects mm | calm  | joints   | objects mm | calm  | ours    | twins   | success |      |
|--------------------|----------|---------|----------|------------|-------|----------|------------|-------|---------|---------|---------|------|
"""  # noqa: E501


def _row(report: Report | NotRun) -> str:
    if isinstance(report, NotRun):
        return f"| {report.task:<18} | cannot run: {report.problem}"
    stock, converged = report.stock, report.converged
    equal = stock.success_equal and converged.success_equal
    whole = " | ".join(
        f"{each.joint_error:8.1e} | {each.object_error_m * 1e3:10.1e} | {each.calm_share:5.0%}"
        for each in (stock, converged)
    )
    return (
        f"| {report.task:<18} | {report.step_error:8.1e} | {report.step_share:7.0%} | {whole} | "
        f"{stock.chaos_error_m * 1e3:7.1e} | {stock.twin_error_m * 1e3:7.1e} | "
        f"{'equal' if equal else 'DIFFER':<7} | {'pass' if report.passed else 'FAIL'} |"
    )


@dataclass(frozen=True, kw_only=True)
class Options(TaskOptions):
    """What is compared."""

    steps: Annotated[int, Option("control steps", least=1)] = 100
    jobs: Annotated[int, Option("tasks checked at the same time", least=1)] = 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Check the asked tasks and print a table."""
    return run_with_options(Options, _check_tasks, arguments, description=__doc__)


def _check_tasks(options: Options) -> int:
    jobs = [(task.suite, task.task_id, options.steps) for task in options.chosen()]
    select_opengl()
    prepare_libero()
    sys.stdout.write(_HEAD.format(steps=f"{options.steps} steps"))
    reports = []
    with ProcessPoolExecutor(options.jobs, multiprocessing.get_context("spawn")) as pool:
        for report in pool.map(check_task, *zip(*jobs, strict=True)):
            reports.append(report)
            sys.stdout.write(_row(report) + "\n")
            sys.stdout.flush()
    passed = sum(isinstance(report, Report) and report.passed for report in reports)
    not_run = sum(isinstance(report, NotRun) for report in reports)
    others = f", {not_run} cannot be run" if not_run else ""
    sys.stdout.write(
        f"{passed} of {len(reports)} tasks pass{others}: single steps within {STEP_TOLERANCE:g}; whole runs within "
        f"{JOINT_TOLERANCE:g} (joints) and {OBJECT_TOLERANCE_M * 1e3:g} mm (objects), until a twin of stock's run is "
        f"{_CHAOS:.0%} of it off\n"
    )
    return exit_code(reports)


def exit_code(reports: Sequence[Report | NotRun]) -> int:
    """0 when all pass, 1 when one fails, 2 when none fails but one cannot be run."""
    if any(isinstance(report, Report) and not report.passed for report in reports):
        return 1
    return 2 if any(isinstance(report, NotRun) for report in reports) else 0


if __name__ == "__main__":
    raise SystemExit(main())
