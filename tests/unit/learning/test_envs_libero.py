"""LIBERO as the training loop sees it: rewards, ends of episodes, and physics that fails."""

import logging

import numpy as np
import pytest

from rlinf.config.schema import EnvConfig, EnvSplitConfig
from rlinf.data import EpisodePlan
from rlinf.envs.libero.adapter import LiberoEnv

IDS = (0, 1)


@pytest.fixture(scope="module")
def libero():
    env = LiberoEnv(EnvConfig(num_envs_per_worker=2, image_size=32, train=EnvSplitConfig(max_episode_steps=6)))
    yield env
    env.close()


@pytest.fixture
def env(libero):
    libero.reset([EpisodePlan(env_id, 0, "libero_spatial", 0, env_id, 0) for env_id in IDS], IDS)
    return libero


def actions(num_actions=4):
    return np.random.default_rng(0).uniform(-1, 1, (2, num_actions, 7)).astype(np.float32)


def test_the_step_limit_cuts_the_last_chunk_short(env):
    first, second = (env.step_chunk(actions(), IDS, video_ids=()) for _ in range(2))
    assert first.executed_BC.all()
    assert not first.done_B.any()
    assert second.executed_BC.tolist() == [[True, True, False, False]] * 2
    assert second.truncated_B.all()
    assert not second.terminated_B.any()
    assert not second.rewards_BC.any()


def test_an_episode_whose_physics_fails_ends_alone(env, caplog):
    env.step_chunk(actions(1), IDS, video_ids=())  # the state of a start is kept for others
    episode = env._envs._episodes[1]
    model = env._envs._scene(episode.task).model
    episode.state.integration[1 + model.nq + 3] = np.nan  # a velocity
    with caplog.at_level(logging.WARNING):
        step = env.step_chunk(actions(), IDS, video_ids=())
    assert "environment 1: MuJoCo's state went bad" in caplog.text
    assert step.executed_BC.tolist() == [[True] * 4, [False] * 4]
    assert step.truncated_B.tolist() == [False, True]
    assert not step.success_BC.any()
    env.reset([EpisodePlan(2, 0, "libero_spatial", 0, 1, 0)], [1])
    assert env.step_chunk(actions(), IDS, video_ids=()).executed_BC[1].all()


def test_a_start_that_cannot_be_had_is_no_lost_episode(env):
    with pytest.raises(ValueError, match=r"environment 1 \(libero_spatial task 0, initial state 50, .*out of range"):
        env.reset([EpisodePlan(2, 0, "libero_spatial", 0, 50, 0)], [1])
