"""The vector env over processes: same bits, and a worker's death."""

import os
import signal

import numpy as np
import pytest

from libero_runtime.vector.env import EpisodeStart, LiberoVectorEnv, SimulationError, VectorEnvError
from libero_runtime.vector.processes import LiberoProcessEnv

SUITE = "libero_spatial"
STARTS = [EpisodeStart(SUITE, task, index) for task, index in ((0, 0), (0, 1), (3, 2))]


def random_actions(num_envs, num_actions, *, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (num_envs, num_actions, 7)).astype(np.float32)


@pytest.fixture(scope="module")
def env():
    processes = LiberoProcessEnv(num_envs=3, num_workers=2, image_size=32, on_failure="freeze")
    yield processes
    processes.close()


def test_processes_change_no_bit(env):
    alone = LiberoVectorEnv(num_envs=3, image_size=32)
    first, second = alone.reset(STARTS), env.reset(STARTS)
    assert np.array_equal(first.images_BNHWC, second.images_BNHWC)
    assert first.languages == second.languages
    for chunk, ids in enumerate(([0, 1, 2], [2, 0])):
        actions = random_actions(len(ids), 5, seed=chunk)
        expected = alone.step_chunk(actions, ids, record_every=2, max_steps_B=[5, 3, 4][: len(ids)])
        given = env.step_chunk(actions, ids, record_every=2, max_steps_B=[5, 3, 4][: len(ids)])
        assert np.array_equal(expected.frames.images_BNHWC, given.frames.images_BNHWC)
        assert np.array_equal(expected.frames.proprio_BP, given.frames.proprio_BP)
        assert np.array_equal(expected.num_steps_B, given.num_steps_B)
        assert np.array_equal(expected.success_BC, given.success_BC)
        assert given.recorded.keys() == expected.recorded.keys() == set(ids)
        for env_id, frames in expected.recorded.items():
            assert len(frames) > 0
            assert np.array_equal(frames, given.recorded[env_id])
        assert given.failures_B == (None,) * len(ids)
    alone.close()


def test_a_killed_worker_is_named_and_started_again(env):
    env.reset(STARTS)
    os.kill(env._workers[0].process.pid, signal.SIGKILL)
    result = env.step_chunk(random_actions(3, 4))
    assert result.num_steps_B.tolist() == [0, 0, 4]
    assert result.failures_B[2] is None
    for env_id in (0, 1):
        assert f"environment {env_id} (libero_spatial task 0, initial state {env_id}" in result.failures_B[env_id]
        assert "worker 0" in result.failures_B[env_id]
        assert "killed by SIGKILL in step_chunk" in result.failures_B[env_id]
    again = env.step_chunk(random_actions(3, 4))
    assert again.num_steps_B.tolist() == [0, 0, 4]
    env.reset(STARTS[:2], [0, 1])
    assert env.step_chunk(random_actions(3, 4)).num_steps_B.tolist() == [4, 4, 4]


def test_a_killed_worker_raises(env, monkeypatch):
    monkeypatch.setattr(env, "_on_failure", "raise")
    env.reset(STARTS)
    os.kill(env._workers[1].process.pid, signal.SIGKILL)
    with pytest.raises(SimulationError, match=r"environment 2 \(libero_spatial task 3, initial state 2.*SIGKILL"):
        env.step_chunk(random_actions(3, 4))
    with pytest.raises(VectorEnvError, match="environment 2 has no episode"):
        env.step_chunk(random_actions(3, 4))
    assert env.step_chunk(random_actions(2, 4), [0, 1]).num_steps_B.tolist() == [4, 4]
    env.reset(STARTS[2:], [2])
    assert env.step_chunk(random_actions(3, 4)).num_steps_B.tolist() == [4, 4, 4]


def test_bad_input(env):
    with pytest.raises(VectorEnvError, match="num_workers=3 must not be more than num_envs=2"):
        LiberoProcessEnv(num_envs=2, num_workers=3)
    env.reset(STARTS)
    actions = random_actions(3, 2)
    actions[2, 1, 0] = np.nan
    with pytest.raises(VectorEnvError, match=r"environment 2 \(libero_spatial task 3, initial state 2"):
        env.step_chunk(actions)
    with pytest.raises(VectorEnvError, match="env_ids"):
        env.step_chunk(actions, [3])
