"""Starts that cannot be had, and calls before there is an episode."""

import numpy as np
import pytest

from libero_runtime.sim import scene
from libero_runtime.suites import Suite
from libero_runtime.vector.env import EpisodeStart, LiberoVectorEnv, VectorEnvError

SUITE = "libero_spatial"
GOOD = [EpisodeStart(SUITE, 0, 0), EpisodeStart(SUITE, 0, 1), EpisodeStart("libero_goal", 7, 2)]
BAD = [
    (EpisodeStart("libero_moon", 0, 0), "unknown suite 'libero_moon': expected one of libero_spatial"),
    (EpisodeStart(SUITE, 10, 0), "task id 10 is out of range: libero_spatial has tasks 0 to 9"),
    (EpisodeStart(SUITE, -1, 0), "task id -1 is out of range"),
    (EpisodeStart(SUITE, 1, 50), "init_index 50 is out of range: task 1 of libero_spatial has initial states 0 to 49"),
    (EpisodeStart(SUITE, 1, 0, seed=-1), "seed -1 of an episode start must not be negative"),
]


@pytest.fixture(scope="module")
def env():
    env = LiberoVectorEnv(num_envs=3, image_size=32)
    yield env
    env.close()


def failure(env, starts):
    with pytest.raises(VectorEnvError) as raised:
        env.reset(starts)
    return str(raised.value)


def test_a_start_that_cannot_be_had_is_named_and_leaves_no_episode(env):
    env.reset(GOOD)
    for start, why in BAD:
        what = f"{start.suite} task {start.task_id}, initial state {start.init_index}, seed {start.seed}"
        assert failure(env, [GOOD[0], start, GOOD[2]]).startswith(f"environment 1 ({what}): {why}")
    actions = np.zeros((3, 2, 7), np.float32)
    with pytest.raises(VectorEnvError, match=r"environment 0 has no episode: call reset"):
        env.step_chunk(actions)
    env.reset(GOOD)
    assert env.step_chunk(actions).num_steps_B.tolist() == [2, 2, 2]


def test_a_model_that_is_not_there(env, monkeypatch, tmp_path):
    """A task with an object that LIBERO does not have."""
    task_of_suite = Suite.task

    def without_file(suite, task_id):
        task = task_of_suite(suite, task_id)
        if (suite.name, task_id) != (SUITE, 4):
            return task
        bddl = tmp_path / "task.bddl"
        bddl.write_text(task.bddl_path.read_text().replace("- plate", "- no_such_plate"))
        return type(task)(task.suite, task_id, task.name, task.language, bddl, task.init_path)

    monkeypatch.setattr(Suite, "task", without_file)
    message = failure(env, [GOOD[0], EpisodeStart(SUITE, 4, 0), GOOD[2]])
    assert message.startswith(f"environment 1 ({SUITE} task 4, initial state 0, seed 0): ")
    assert "names 'no_such_plate', which LIBERO has no model of" in message


def test_a_start_whose_physics_fails_is_named(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # MuJoCo writes its log into the working folder
    states = scene.init_states

    def spoilt(task):
        spoilt_states = states(task).copy()
        spoilt_states[7, 1 + 9] = np.nan  # an object's position
        return spoilt_states

    monkeypatch.setattr(scene, "init_states", spoilt)
    env = LiberoVectorEnv(num_envs=2, image_size=16)
    message = failure(env, [GOOD[0], EpisodeStart(SUITE, 0, 7)])
    env.close()
    assert message.startswith("environment 1 (libero_spatial task 0, initial state 7")
    assert "MuJoCo's state went bad (mjWARN_BADQPOS) in control step 1" in message
