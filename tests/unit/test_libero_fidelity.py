"""The fidelity command: on a few tasks against stock LIBERO, and that its verdict can be a failure."""

import dataclasses

import numpy as np
import pytest

from libero_runtime import fidelity, fidelity_episodes
from libero_runtime.episodes import MAX_STEPS
from libero_runtime.suites import SUITES

NUM_STEPS = 40


@pytest.mark.parametrize(("suite", "task_id"), [("libero_spatial", 0), ("libero_object", 0), ("libero_10", 9)])
def test_fast_steps_follow_stock(suite, task_id):
    report = fidelity.check_task(suite, task_id, num_steps=NUM_STEPS)
    assert report.passed, report
    assert report.joint_error < 1e-4
    assert report.calm_share > 0.9


def make_run(*, drift=0.0, kick=0.0, success_at=None):
    """Ten steps of two joints and one object; `drift` from the start, `kick` from step 5."""
    steps = np.arange(10)
    moved = drift + np.where(steps >= 5, kick, 0.0)
    success = np.zeros(10, bool) if success_at is None else steps >= success_at
    objects = np.zeros((10, 1, 3))
    objects[:, 0, 0] = moved
    return fidelity.Run(np.repeat(moved[:, None], 2, axis=1), objects, success.astype(float), success)


def test_verdict():
    stock, calm, chaotic = make_run(), make_run(drift=1e-9), make_run(kick=5e-4)
    assert fidelity.compare("same", make_run(drift=1e-5), stock, [calm]).passed
    assert not fidelity.compare("drifts", make_run(drift=2e-3), stock, [calm]).passed
    kicked = make_run(kick=2e-3)
    assert not fidelity.compare("alone in leaving", kicked, stock, [calm]).passed
    report = fidelity.compare("with a twin", kicked, stock, [calm, chaotic])
    assert report.passed
    assert report.calm_share == 0.5
    assert report.chaos_error_m == pytest.approx(2e-3)
    assert not fidelity.compare("succeeds before chaos", make_run(success_at=3), stock, [chaotic]).passed
    assert fidelity.compare("succeeds in chaos", make_run(success_at=7), stock, [chaotic]).passed
    assert not dataclasses.replace(report, problem="no assets").passed


def test_exit_codes():
    passes = fidelity.compare("same", make_run(), make_run(), [make_run()])
    fails = fidelity.compare("drifts", make_run(drift=2e-3), make_run(), [make_run()])
    cannot_run = dataclasses.replace(passes, problem="no assets")
    assert fidelity.exit_code([passes, passes]) == 0
    assert fidelity.exit_code([passes, cannot_run]) == 2
    assert fidelity.exit_code([cannot_run, fails, passes]) == 1


def test_a_task_without_assets_cannot_be_run(capsys):
    assert fidelity.main(["--suites", "libero_90", "--tasks", "88"]) == 2
    lines = capsys.readouterr().out
    assert "cannot run: libero_90 task 88" in lines
    assert "yellow_book.xml" in lines
    assert "0 of 1 tasks pass, 1 cannot be run" in lines


def test_suites_of_the_commands():
    """One list: the expert's step limits, and the defaults of the commands."""
    assert tuple(MAX_STEPS) == SUITES
    assert fidelity.task_parser("").parse_args([]).suites == ",".join(SUITES)


def test_bad_arguments(capsys):
    assert fidelity.main(["--tasks", "a"]) == 2
    assert "expected numbers and ranges such as 0-3,7, given 'a'" in capsys.readouterr().err
    assert fidelity.main(["--suites", "libero_nowhere"]) == 2
    assert fidelity.main(["--steps", "0"]) == 2
    assert fidelity.main(["--jobs", "0"]) == 2
    assert "--jobs 0 must be at least 1" in capsys.readouterr().err
    assert fidelity.main(["--suites", "libero_goal", "--tasks", "9-10"]) == 2
    assert "task id 10 is out of range: libero_goal has tasks 0 to 9" in capsys.readouterr().err


def test_episodes_end_alike():
    endings = fidelity_episodes.check_task("libero_object", 0, 2)
    assert [ending.init_index for ending in endings] == [0, 1]
    assert endings[0].ours, "the expert without noise"
    assert all(ending.alike for ending in endings)


def test_a_different_ending_is_not_alike():
    assert not fidelity_episodes.Ending("libero_object 0", 0, 10, ours=True, stock=False).alike


def test_bad_arguments_of_episodes(capsys):
    assert fidelity_episodes.main(["--episodes", "51"]) == 2
    assert "must be 1 to 50" in capsys.readouterr().err
    assert fidelity_episodes.main(["--suites", "libero_90"]) == 2
    assert fidelity_episodes.main(["--tasks", "0,10"]) == 2
