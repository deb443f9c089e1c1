"""Gymnasium's interface: spaces, resets with masks, rewards, ends and a wrapper."""

import re

import numpy as np
import pytest
from gymnasium.wrappers.vector import RecordEpisodeStatistics

from libero_runtime.suites import load_suite
from libero_runtime.vector.env import EpisodeStart, VectorEnvError
from libero_runtime.vector.gym import LiberoGymEnv

SUITE = "libero_spatial"
TASKS = [(SUITE, 1), (SUITE, 1), ("libero_goal", 7)]
KEEP_STILL = np.tile(np.array([0.0] * 6 + [-1.0], np.float32), (3, 1))


@pytest.fixture(scope="module")
def env():
    made = LiberoGymEnv(TASKS, max_episode_steps=4, cameras=("agentview", "robot0_eye_in_hand"), image_size=32)
    yield made
    made.close()


def _same(first, second):
    return first.keys() == second.keys() and all(np.array_equal(first[key], second[key]) for key in first)


def test_what_it_returns_is_in_its_spaces(env):
    observation, infos = env.reset(seed=0)
    assert env.observation_space.contains(observation)
    assert env.single_observation_space.contains({key: value[0] for key, value in observation.items()})
    assert infos["language"].tolist() == [load_suite(suite).task(task_id).language for suite, task_id in TASKS]
    observation, rewards, terminated, truncated, infos = env.step(env.action_space.sample())
    assert env.observation_space.contains(observation)
    assert (rewards.dtype, terminated.dtype, truncated.dtype) == (np.float64, np.bool_, np.bool_)
    assert infos["num_steps"].tolist() == [1] * 3
    assert np.array_equal(env.render()[2], observation["images"][2, 0])


def test_seeds_repeat_and_differ(env):
    first, infos = env.reset(seed=5)
    starts = infos["start"].tolist()
    other, _ = env.reset()
    assert not _same(first, other)
    assert _same(first, env.reset(seed=5)[0])
    assert _same(first, env.reset(options={"starts": starts})[0])


def test_ended_episodes_stay_until_the_mask_names_them(env):
    env.reset(seed=1)
    for count in range(4):
        observation, _, _, truncated, _ = env.step(KEEP_STILL)
        assert truncated.tolist() == [count == 3] * 3
    after, rewards, _, truncated, infos = env.step(KEEP_STILL)
    assert _same(observation, after)
    assert truncated.all()
    assert not rewards.any()
    assert infos["num_steps"].tolist() == [0, 0, 0]
    mask = np.array([False, True, False])
    begun, infos = env.reset(options={"reset_mask": mask})
    assert infos["_start"].tolist() == mask.tolist()
    assert np.array_equal(begun["images"][[0, 2]], after["images"][[0, 2]])
    assert not np.array_equal(begun["proprio"][1], after["proprio"][1])
    assert env.step(KEEP_STILL)[3].tolist() == [True, False, True]


def test_success_is_rewarded_once_and_terminates(expert_actions):
    """The expert plays in one of two environments, eight actions at a time."""
    env = LiberoGymEnv(TASKS[:2], max_episode_steps=len(expert_actions) + 8, chunk=8, image_size=16)
    env.reset(options={"starts": [EpisodeStart(SUITE, 1, 0, seed=5)] * 2})
    played = np.concatenate([expert_actions, KEEP_STILL[:1].repeat(16, axis=0)]).astype(np.float32)
    total, terminated, truncated = np.zeros(2), np.zeros(2, bool), np.zeros(2, bool)
    for first in range(0, len(expert_actions) + 8, 8):
        chunk = np.stack([played[first : first + 8], KEEP_STILL[:1].repeat(8, axis=0)])
        _, rewards, terminated, truncated, infos = env.step(chunk)
        total += rewards
    env.close()
    assert total.tolist() == [1.0, 0.0]
    assert terminated.tolist() == infos["success"].tolist() == [True, False]
    assert truncated.tolist() == [False, True]


def test_physics_that_fails_truncates_and_is_told(env, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # MuJoCo writes its log into the working folder
    env.reset(seed=3)
    episode = env._env._episodes[2]
    episode.state.integration[1 + env._env._scene(episode.task).model.nq + 3] = np.nan
    _, _, terminated, truncated, infos = env.step(KEEP_STILL)
    assert not terminated.any()
    assert truncated.tolist() == infos["_failure"].tolist() == [False, False, True]
    assert "MuJoCo's state went bad" in infos["failure"][2]
    env.reset(options={"reset_mask": np.array([False, False, True])})
    assert not env.step(KEEP_STILL)[3][2]


def test_gymnasiums_wrapper_counts_episodes(env):
    wrapped = RecordEpisodeStatistics(env)
    wrapped.reset(seed=4)
    for _ in range(4):
        infos = wrapped.step(KEEP_STILL)[-1]
    assert infos["episode"]["l"].tolist() == [4, 4, 4]


def test_bad_input(env):
    with pytest.raises(VectorEnvError, match="max_episode_steps=0 must be at least 1"):
        LiberoGymEnv(TASKS, max_episode_steps=0)
    with pytest.raises(VectorEnvError, match=r"unknown options \['mask'\] of reset\(\): expected some of reset_mask"):
        env.reset(options={"mask": None})
    with pytest.raises(VectorEnvError, match=re.escape("must be 3 truth values, not all false, given array([ True])")):
        env.reset(options={"reset_mask": [True]})
    with pytest.raises(VectorEnvError, match=r"actions must have shape \(3, 7\), given \(3, 1, 7\)"):
        env.step(KEEP_STILL[:, None])
