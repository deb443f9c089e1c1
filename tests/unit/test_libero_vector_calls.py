"""Starts that cannot be had, calls after the end and Ctrl-C, alike for vector envs on threads and over processes."""

import os
import pickle
import signal
import threading

import numpy as np
import pytest

from libero_runtime.suites import Suite
from libero_runtime.vector.env import EpisodeStart, LiberoVectorEnv, SimulationError, StartError, VectorEnvError
from libero_runtime.vector.processes import LiberoProcessEnv

SUITE = "libero_spatial"
GOOD = [EpisodeStart(SUITE, 0, 0), EpisodeStart(SUITE, 0, 1), EpisodeStart("libero_goal", 7, 2)]
# Environment 1 cannot begin: no start with its number exists.
BAD = [
    (EpisodeStart("libero_moon", 0, 0), "unknown suite 'libero_moon': expected one of libero_spatial"),
    (EpisodeStart(SUITE, 10, 0), "task id 10 is out of range: libero_spatial has tasks 0 to 9"),
    (EpisodeStart(SUITE, -1, 0), "task id -1 is out of range"),
    (EpisodeStart(SUITE, 1, 50), "init_index 50 is out of range: task 1 of libero_spatial has initial states 0 to 49"),
    (EpisodeStart(SUITE, 1, 0, seed=-1), "seed -1 of an episode start must not be negative"),
]


def random_actions(num_envs, num_actions, *, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (num_envs, num_actions, 7)).astype(np.float32)


def make_env(kind, on_failure):
    if kind == "processes":
        return LiberoProcessEnv(num_envs=3, num_workers=2, image_size=32, on_failure=on_failure)
    return LiberoVectorEnv(num_envs=3, image_size=32, num_threads=2 if kind == "threads" else 1, on_failure=on_failure)


@pytest.fixture(scope="module")
def processes():
    env = make_env("processes", "raise")
    yield env
    env.close()


@pytest.fixture(scope="module", params=["alone", "threads", "processes"])
def env(request):
    if request.param == "processes":
        yield request.getfixturevalue("processes")
    else:
        env = make_env(request.param, "raise")
        yield env
        env.close()


def test_a_start_that_cannot_be_had_freezes_its_environment_alone(env, monkeypatch):
    monkeypatch.setattr(env, "_on_failure", "freeze")
    whole = env.reset(GOOD)
    assert whole.failures_B == (None, None, None)
    for start, why in BAD:
        frames = env.reset([GOOD[0], start, GOOD[2]])
        what = f"{start.suite} task {start.task_id}, initial state {start.init_index}, seed {start.seed}, step 0"
        assert frames.failures_B[0] is frames.failures_B[2] is None
        assert frames.failures_B[1].startswith(f"environment 1 ({what}): {why}")
        assert frames.languages == (whole.languages[0], "", whole.languages[2])
        assert np.array_equal(frames.images_BNHWC[[0, 2]], whole.images_BNHWC[[0, 2]])
        assert not frames.images_BNHWC[1].any()
        assert not frames.proprio_BP[1].any()
    for _ in range(2):
        result = env.step_chunk(random_actions(3, 2))
        assert result.num_steps_B.tolist() == [2, 0, 2]
        assert not result.success_BC[1].any()
        assert result.failures_B == frames.failures_B
    with pytest.raises(VectorEnvError, match=r"nothing was seen of environment 1 \("):
        env.render()
    env.reset(GOOD[1:2], [1])
    assert env.step_chunk(random_actions(3, 2)).num_steps_B.tolist() == [2, 2, 2]


def test_a_start_that_cannot_be_had_raises_when_the_others_have_begun(env):
    whole = env.reset(GOOD)
    start, why = BAD[0]
    with pytest.raises(StartError) as raised:
        env.reset([GOOD[0], start, GOOD[2]])
    assert str(raised.value).startswith(f"environment 1 ({start.suite} task {start.task_id}, initial state ")
    assert why in str(raised.value)
    for error in (raised.value, pickle.loads(pickle.dumps(raised.value))):
        assert error.frames.failures_B == (None, str(raised.value), None)
        assert np.array_equal(error.frames.images_BNHWC[[0, 2]], whole.images_BNHWC[[0, 2]])
    assert env.step_chunk(random_actions(2, 2), [0, 2]).num_steps_B.tolist() == [2, 2]
    with pytest.raises(VectorEnvError, match=r"environment 1 has no episode \(its last one failed\): call reset"):
        env.step_chunk(random_actions(3, 2))
    with pytest.raises(StartError) as raised:
        env.reset([EpisodeStart("libero_moon", 0, index) for index in range(3)])
    assert str(raised.value).count("unknown suite") == 1, "one reason is told once"
    for env_id in range(3):
        assert f"environment {env_id} (libero_moon task 0, initial state {env_id}, seed 0, step 0)" in str(raised.value)


def test_a_model_that_is_not_there_is_one_environments_matter(monkeypatch, tmp_path):
    """A task with an object that LIBERO does not have."""
    env = LiberoVectorEnv(num_envs=3, image_size=32, on_failure="freeze")
    task_of_suite = Suite.task

    def without_file(suite, task_id):
        task = task_of_suite(suite, task_id)
        if (suite.name, task_id) != (SUITE, 4):
            return task
        bddl = tmp_path / "task.bddl"
        bddl.write_text(task.bddl_path.read_text().replace("- plate", "- no_such_plate"))
        return type(task)(task.suite, task_id, task.name, task.language, bddl, task.init_path)

    monkeypatch.setattr(Suite, "task", without_file)
    failures = env.reset([GOOD[0], EpisodeStart(SUITE, 4, 0), GOOD[2]]).failures_B
    assert failures[0] is failures[2] is None
    assert failures[1].startswith(f"environment 1 ({SUITE} task 4, initial state 0, seed 0, step 0): ")
    assert "names 'no_such_plate', which LIBERO has no model of" in failures[1]
    assert env.step_chunk(random_actions(2, 2), [0, 2]).num_steps_B.tolist() == [2, 2]
    env.close()


def test_a_start_whose_physics_fails_is_named(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # MuJoCo writes its log into the working folder
    from libero_runtime.sim import scene

    states = scene.init_states

    def spoilt(task):
        spoilt_states = states(task).copy()
        spoilt_states[7, 1 + 9] = np.nan  # an object's position
        return spoilt_states

    monkeypatch.setattr(scene, "init_states", spoilt)
    for num_threads in (1, 2):
        env = LiberoVectorEnv(num_envs=2, image_size=16, num_threads=num_threads, on_failure="freeze")
        failures = env.reset([GOOD[0], EpisodeStart(SUITE, 0, 7)]).failures_B
        assert failures[0] is None
        assert failures[1].startswith("environment 1 (libero_spatial task 0, initial state 7")
        assert "MuJoCo's state went bad (mjWARN_BADQPOS) in control step 1" in failures[1]
        env.close()


@pytest.mark.parametrize("kind", ["alone", "processes"])
def test_before_the_first_reset_and_after_the_end(kind):
    env = make_env(kind, "raise")
    for call in (env.render, lambda: env.step_chunk(random_actions(3, 1))):
        with pytest.raises(VectorEnvError, match=r"environment 0 has no episode \(none has begun yet\): call reset"):
            call()
    env.reset(GOOD[1:2], [1])
    assert env.render([1]).any()
    env.close()
    env.close()
    for call in (env.render, lambda: env.step_chunk(random_actions(3, 1)), lambda: env.reset(GOOD)):
        with pytest.raises(VectorEnvError, match=f"this {type(env).__name__} is closed: make a new one"):
            call()


# A worker's death -------------------------------------------------------------------------------------------------


def test_a_killed_worker_is_named_and_started_again(processes, monkeypatch):
    for on_failure in ("raise", "freeze"):
        monkeypatch.setattr(processes, "_on_failure", on_failure)
        processes.reset(GOOD)
        os.kill(processes._workers[0].process.pid, signal.SIGKILL)
        if on_failure == "raise":
            with pytest.raises(SimulationError) as raised:
                processes.step_chunk(random_actions(3, 4))
            failures = [str(raised.value)] * 2
            with pytest.raises(VectorEnvError, match="environment 0 has no episode"):
                processes.step_chunk(random_actions(3, 4))
            assert processes.step_chunk(random_actions(1, 4), [2]).num_steps_B.tolist() == [4]
        else:
            for _ in range(2):
                result = processes.step_chunk(random_actions(3, 4))
                assert result.num_steps_B.tolist() == [0, 0, 4]
            failures = result.failures_B
            assert failures[2] is None
        for env_id in (0, 1):
            assert f"environment {env_id} (libero_spatial task 0, initial state {env_id}" in failures[env_id]
            assert "worker 0" in failures[env_id]
            assert "killed by SIGKILL in step_chunk" in failures[env_id]
    processes.reset(GOOD[:2], [0, 1])
    assert processes.step_chunk(random_actions(3, 4)).num_steps_B.tolist() == [4, 4, 4]


# Ctrl-C -----------------------------------------------------------------------------------------------------------


def interrupt(call, *, after_s):
    """Ctrl-C in this process while `call` waits for the workers."""
    timer = threading.Timer(after_s, os.kill, (os.getpid(), signal.SIGINT))

    def interrupted():
        timer.start()
        call()
        timer.join()  # too early an end shows in what the test finds next

    with pytest.raises(KeyboardInterrupt):
        interrupted()


def check_alive(env):
    """The bits of an environment that never heard of Ctrl-C."""
    alone = make_env("alone", "raise")
    first, second = alone.reset(GOOD), env.reset(GOOD)
    assert np.array_equal(first.images_BNHWC, second.images_BNHWC)
    expected, given = (each.step_chunk(random_actions(3, 3)) for each in (alone, env))
    assert given.num_steps_B.tolist() == [3, 3, 3]
    assert np.array_equal(expected.frames.images_BNHWC, given.frames.images_BNHWC)
    assert np.array_equal(expected.frames.proprio_BP, given.frames.proprio_BP)
    alone.close()


def test_answers_of_an_interrupted_call_are_dropped(processes):
    processes.reset(GOOD)
    workers = [worker.process.pid for worker in processes._workers]
    interrupt(lambda: processes.step_chunk(random_actions(2, 500), [0, 2], stop_on_success=False), after_s=0.1)
    with pytest.raises(VectorEnvError, match=r"environment 0 has no episode \(its last step_chunk\(\) broke off\)"):
        processes.step_chunk(random_actions(3, 2))
    assert processes.step_chunk(random_actions(1, 2), [1]).num_steps_B.tolist() == [2]
    fresh = [EpisodeStart("libero_object", 0, index) for index in range(3)]  # scenes to compile
    interrupt(lambda: processes.reset(fresh), after_s=0.05)
    with pytest.raises(VectorEnvError, match=r"environment 0 has no episode \(its last reset\(\) broke off\)"):
        processes.step_chunk(random_actions(3, 2))
    check_alive(processes)
    assert [worker.process.pid for worker in processes._workers] == workers, "no reason to start any again"
