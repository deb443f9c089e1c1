"""The fidelity command: on a few tasks against stock LIBERO, and that its verdict can be a failure."""

import shutil
from dataclasses import replace

import mujoco
import numpy as np
import pytest

from libero_runtime import fidelity, fidelity_episodes
from libero_runtime.fidelity_stock import Stock
from libero_runtime.kernel import osc
from libero_runtime.paths import libero_folder, resolve_paths
from libero_runtime.sim.scene import Scene
from libero_runtime.sim.stepper import SUBSTEPS
from libero_runtime.suites import load_suite


@pytest.fixture(scope="module")
def soup():
    """Stock of a can and a basket, which takes seconds to build."""
    stock = Stock(load_suite("libero_object").task(0))
    yield stock
    stock.close()


@pytest.fixture
def lent(soup, monkeypatch):
    """The commands are given it, and leave it open."""
    for command in (fidelity, fidelity_episodes):
        monkeypatch.setattr(command, "Stock", {soup.task: soup}.__getitem__)
    monkeypatch.setattr(soup, "close", lambda: None)


def test_fast_steps_follow_stock(lent):
    """A hand that presses an object down. A solver tolerance of 1e-10 was not enough for it: one step ended 2.7e-5 off.
    An eighth of its steps is chaos."""
    report = fidelity.check_task(load_suite("libero_object").task(0), num_steps=40)
    assert report.passed, report
    assert report.share > 0.8


# Real faults are found ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def recorded():
    """Stock, a start, and what it does from there: both fingers land on a plate."""
    task = load_suite("libero_10").task(6)
    stock, scene = Stock(task), Scene(task, image_size=16)
    state = stock.settle(init_index=0, seed=0)
    yield stock, state, stock.record(fidelity.visiting_actions(scene, state, 60, seed=6))
    scene.close()
    stock.close()


def substeps(scene, action, run):
    """A control step in Python; `run(stepper, action, first)` is a substep."""
    for count in range(SUBSTEPS):
        run(scene._stepper, np.asarray(action, dtype=np.float64), count == 0)
    return scene._stepper.goal_met(scene._goal)


def as_it_is(scene):
    scene.step = lambda action: substeps(scene, action, lambda stepper, a, first: stepper.substep(a, first=first))


def friction_of_a_hundredth_more(scene):
    scene.model.geom_friction[:, 0] *= 1.01


def stiffness_of_a_thousandth_more(scene):
    scene._stepper.arm.kp[:] *= 1.001


def gripper_late_by_one_substep(scene):
    before = [-1.0]

    def step(action):
        def run(stepper, now, first):
            late = np.append(now[:6], before[0])
            stepper.substep(late if first else now, first=first)
            stepper._work.gripper_step[:] = [-0.01 * np.sign(now[6]), 0.01 * np.sign(now[6])]

        success = substeps(scene, action, run)
        before[0] = action[6]
        return success

    scene.step = step


def controller_without_a_forward_pass(scene):
    def run(stepper, action, first):
        live, arm, work = stepper._live, stepper.arm, stepper._work
        osc.read_arm(live, arm, work)  # as the substep before left it
        if first:
            osc.set_goal(arm, work, stepper.controller, action)
        mujoco.mj_step1(stepper.model, stepper.data)
        osc.apply(live, arm, work, stepper.controller, False)
        mujoco.mj_step2(stepper.model, stepper.data)

    scene.step = lambda action: substeps(scene, action, run)


@pytest.mark.parametrize(
    ("change", "passes"),
    [
        (as_it_is, True),
        (friction_of_a_hundredth_more, False),
        (stiffness_of_a_thousandth_more, False),
        (gripper_late_by_one_substep, False),
        (controller_without_a_forward_pass, False),
    ],
)
def test_small_faults_are_found(change, passes, recorded):
    _, state, record = recorded
    scene = Scene(load_suite("libero_10").task(6), image_size=16)
    change(scene)
    report = fidelity.judge(change.__name__, scene, state, record)
    scene.close()
    assert report.passed == passes, report


def test_steps_from_recorded_states_are_those_of_the_run(recorded):
    """A state of stock's holds all that its next step depends on, whatever stock did before."""
    stock, _, record = recorded
    nq = stock.model.nq
    for step in (45, 0):
        stock.load(record.starts[step], tolerance=1e-12)
        stock.control_env.step(record.actions_TA[step])
        assert np.array_equal(stock.data.qpos, record.qpos_TQ[step])
        assert np.array_equal(stock.data.qpos, record.starts[step + 1][0][1 : 1 + nq])


# The verdict --------------------------------------------------------------------------------------------------------


def make_report(*, error=0.0, success_equal=True):
    return fidelity.Report("task", error, 1.0, success_equal)


def test_verdict():
    assert make_report(error=9e-7).passed
    assert not make_report(error=2e-6).passed
    assert not make_report(success_equal=False).passed


def test_steps_in_which_stock_parts_from_itself_are_left_out(recorded):
    _, state, record = recorded
    scene = Scene(load_suite("libero_10").task(6), image_size=16)
    steps = len(record.actions_TA)
    hops = record.qpos_TQ.copy()
    hops[7, 0] += 1e-5
    failing = replace(record, qpos_TQ=hops, twins_qpos_TQ=[hops])
    assert not fidelity.judge("", scene, state, failing).passed
    left_out = fidelity.judge("", scene, state, replace(failing, twins_qpos_TQ=record.twins_qpos_TQ))
    assert left_out.passed
    assert left_out.share <= 1 - 1 / steps
    other_success = ~record.success_T
    assert not fidelity.judge("", scene, state, replace(record, success_T=other_success)).success_equal
    scene.close()


def test_exit_codes():
    passes, fails, cannot_run = make_report(), make_report(error=1.0), fidelity.Report("task", problem="no assets")
    assert fidelity.exit_code([passes, passes]) == 0
    assert fidelity.exit_code([passes, cannot_run]) == 2
    assert fidelity.exit_code([cannot_run, fails, passes]) == 1


def test_a_task_whose_states_are_of_another_scene_cannot_be_run(monkeypatch, tmp_path, capsys):
    """In a checkout: installed files that are not LIBERO's are refused before."""
    inner = tmp_path / "libero" / "libero"
    for name in ("bddl_files", "init_files"):
        shutil.copytree(libero_folder() / name / "libero_object", inner / name / "libero_object")
    (inner / "assets").symlink_to(resolve_paths().assets)
    goal_states = load_suite("libero_goal").task(0).init_path
    monkeypatch.setenv("LIBERO_REPO_PATH", str(tmp_path))
    shutil.copyfile(goal_states, load_suite("libero_object").task(0).init_path)
    assert fidelity.main(["--suites", "libero_object", "--tasks", "0"]) == 2
    lines = capsys.readouterr().out
    assert "cannot run: initial states of libero_object task 0 have " in lines
    assert "0 of 1 tasks pass, 1 cannot be run" in lines


def test_episodes_end_alike(lent):
    (ending,) = fidelity_episodes.check_task(load_suite("libero_object").task(0), num_episodes=1)
    assert ending.init_index == 0
    assert ending.ours, "the expert without noise"
    assert ending.alike
    assert not replace(ending, stock=not ending.stock).alike


@pytest.mark.parametrize(
    ("command", "flags", "message"),
    [
        (fidelity, ["--suites", "libero_nowhere"], "unknown suite"),
        (fidelity, ["--suites", "libero_goal", "--tasks", "9-10"], "task id 10 is out of range: libero_goal has"),
        (fidelity_episodes, ["--episodes", "51"], "must be at most 50"),
        (fidelity_episodes, ["--suites", "libero_90"], "the expert plays libero_spatial"),
    ],
)
def test_bad_arguments(capsys, command, flags, message):
    assert command.main(flags) == 2
    assert message in capsys.readouterr().err
