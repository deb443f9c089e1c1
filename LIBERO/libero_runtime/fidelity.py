"""Does fast stepping do what stock LIBERO does? From the same states with the same actions, on any task.

    python -m libero_runtime.fidelity [--suites libero_spatial,libero_goal] [--tasks 0-9] [--steps 100] [--jobs 2]

Stock is LIBERO's own `ControlEnv` with robosuite's controller and step loop (without a renderer). It settles an
episode by the customary ten idle steps and is given actions: towards one of the task's objects, down on it, close the
gripper, lift, with noise (an open-loop record of a run of ours). From each state that it passes through, one control
step of ours is compared with its own: all of `qpos` within `STEP_TOLERANCE`, and the same answer whether the goal is
reached.

Two things blur the comparison, and both are stock's. Its solver stops where the next iteration promises less than its
tolerance, which nothing in a state tells: so stock is run with a solver tolerance of 1e-12 (converged). And contacts
amplify the smallest difference: left out are steps where stock is a tenth of `STEP_TOLERANCE` off when it starts 1e-9
away, or from the same state with its sums in another order or a solver tolerance of 1e-13 (there are objects that hop
by micrometres in a substep, or do not).

Exit code 0 when every task passes, 1 when one fails, 2 when none fails but one cannot be run.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from libero_runtime.fidelity_stock import Record, Stock, free_objects
from libero_runtime.options import Option, run_with_options
from libero_runtime.sim.scene import Scene
from libero_runtime.sim.state import EpisodeState
from libero_runtime.suites import TaskOptions, TaskSpec, over_tasks

Array = NDArray[np.float64]
STEP_TOLERANCE = 1e-6  # of every number in qpos (radians, metres, parts of quaternions) after one control step
_CHAOS = 0.1  # of the tolerance: where stock's own steps are so far apart, contacts amplify
_REACH_M = 0.05  # distance from which the hand is moved at full speed
_NOISE = 0.1


@dataclass(frozen=True)
class Report:
    """The verdict on one task."""

    task: str
    error: float = np.inf  # largest difference after one control step
    share: float = 0.0  # of steps that are compared: contacts do not amplify in them
    success_equal: bool = False  # in these
    problem: str = ""  # why it cannot be compared

    @property
    def passed(self) -> bool:
        """Within the tolerance, with equal success."""
        return self.error <= STEP_TOLERANCE and self.success_equal


def visiting_actions(scene: Scene, state: EpisodeState, num_steps: int, *, seed: int) -> Array:
    """Actions (T, 7) that go over an object, down on it, close the gripper and lift, in fifths of the time."""
    rng = np.random.default_rng(seed)
    objects = free_objects(scene.model)
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


def judge(name: str, scene: Scene, state: EpisodeState, record: Record) -> Report:
    """Do with a scene what stock was recorded doing, step by step, and compare."""
    qpos, success = [], []
    for (integration, controller), action in zip(record.starts, record.actions_TA, strict=True):
        scene.load(replace(state, integration=integration, controller=controller))
        success.append(scene.step(action))
        qpos.append(scene.data.qpos.copy())
    twin_T = np.max([np.abs(twin_TQ - record.qpos_TQ).max(axis=1) for twin_TQ in record.twins_qpos_TQ], axis=0)
    calm_T = twin_T <= _CHAOS * STEP_TOLERANCE
    error_T = np.abs(np.array(qpos) - record.qpos_TQ).max(axis=1)
    return Report(
        name,
        error=float(error_T[calm_T].max(initial=0.0)),
        share=float(calm_T.mean()),
        success_equal=bool((np.array(success) == record.success_T)[calm_T].all()),
    )


def check_task(task: TaskSpec, *, num_steps: int) -> Report:
    """Compare on one task."""
    name = f"{task.suite} {task.task_id}"
    try:
        scene = Scene(task, image_size=16)
        scene.prepare(init_index=0, seed=0)  # says whether the states are this scene's, before stock is built
        stock = Stock(task)
        state = stock.settle(init_index=0, seed=0)
    except ValueError as error:
        return Report(name, problem=str(error))
    record = stock.record(visiting_actions(scene, state, num_steps, seed=task.task_id))
    report = judge(name, scene, state, record)
    scene.close()
    stock.close()
    return report


_HEAD = """\
| {steps:<18} | qpos     | share   | success |      |
|--------------------|----------|---------|---------|------|
"""


def _row(report: Report) -> str:
    if report.problem:
        return f"| {report.task:<18} | cannot run: {report.problem}"
    return (
        f"| {report.task:<18} | {report.error:8.1e} | {report.share:7.0%} | "
        f"{'equal' if report.success_equal else 'DIFFER':<7} | {'pass' if report.passed else 'FAIL'} |"
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
    tasks = options.chosen()
    sys.stdout.write(_HEAD.format(steps=f"{options.steps} steps"))
    reports = []
    for report in over_tasks(partial(check_task, num_steps=options.steps), tasks, options.jobs):
        reports.append(report)
        sys.stdout.write(_row(report) + "\n")
        sys.stdout.flush()
    passed, not_run = sum(report.passed for report in reports), sum(bool(report.problem) for report in reports)
    others = f", {not_run} cannot be run" if not_run else ""
    sys.stdout.write(
        f"{passed} of {len(reports)} tasks pass{others}: single steps within {STEP_TOLERANCE:g}, with equal success\n"
    )
    return exit_code(reports)


def exit_code(reports: Sequence[Report]) -> int:
    """0 when all pass, 1 when one fails, 2 when none fails but one cannot be run."""
    if any(not report.passed and not report.problem for report in reports):
        return 1
    return 2 if any(report.problem for report in reports) else 0


if __name__ == "__main__":
    raise SystemExit(main())
