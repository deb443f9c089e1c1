"""The face of a Gymnasium vector environment: spaces, resets with masks, rewards, ends and wrappers."""

import os
import re
import signal

import gymnasium
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers.vector import RecordEpisodeStatistics

from libero_runtime.suites import load_suite
from libero_runtime.vector.env import ChunkError, EpisodeStart, LiberoVectorEnv, VectorEnvError
from libero_runtime.vector.gym import LiberoGymEnv
from libero_runtime.vector.processes import LiberoProcessEnv

SUITE = "libero_spatial"
TASKS = [(SUITE, 0), (SUITE, 0), ("libero_goal", 7)]
CAMERAS = ("agentview", "robot0_eye_in_hand")
KEEP_STILL = np.tile(np.array([0.0] * 6 + [-1.0], np.float32), (3, 1))


@pytest.fixture(scope="module")
def inner():
    env = LiberoVectorEnv(num_envs=3, cameras=CAMERAS, image_size=32, on_failure="freeze")
    yield env
    env.close()


@pytest.fixture
def env(inner):
    return LiberoGymEnv(inner, TASKS, max_episode_steps=4)


def same(first, second):
    return first.keys() == second.keys() and all(np.array_equal(first[key], second[key]) for key in first)


def test_what_it_returns_is_in_its_spaces(env):
    assert isinstance(env, gymnasium.vector.VectorEnv)
    assert env.metadata["autoreset_mode"] is AutoresetMode.DISABLED
    observation, infos = env.reset(seed=0)
    assert env.observation_space.contains(observation)
    assert env.single_observation_space.contains({key: value[0] for key, value in observation.items()})
    assert observation["images"].shape == (3, 2, 32, 32, 3)
    assert infos["language"].tolist() == [load_suite(suite).task(task_id).language for suite, task_id in TASKS]
    assert infos["_language"].tolist() == infos["_start"].tolist() == [True] * 3
    assert "failure" not in infos
    env.action_space.seed(0)
    actions = env.action_space.sample()
    assert actions.shape == (3, 7)
    observation, rewards, terminated, truncated, infos = env.step(actions)
    assert env.observation_space.contains(observation)
    assert (rewards.dtype, terminated.dtype, truncated.dtype) == (np.float64, np.bool_, np.bool_)
    assert rewards.tolist() == [0.0] * 3
    assert infos["num_steps"].tolist() == [1] * 3
    frames = env.render()
    assert [frame.shape for frame in frames] == [(32, 32, 3)] * 3
    assert np.array_equal(frames[2], observation["images"][2, 0])


def test_seeds_repeat_and_differ(env):
    first, infos = env.reset(seed=5)
    starts = infos["start"].tolist()
    other, _ = env.reset()
    again, infos_again = env.reset(seed=5)
    assert infos_again["start"].tolist() == starts
    assert [(start.suite, start.task_id) for start in starts] == TASKS
    assert same(first, again)
    assert not same(first, other)
    given, _ = env.reset(options={"starts": starts})
    assert same(first, given)


def test_ended_episodes_stay_until_the_mask_names_them(env):
    observation, _ = env.reset(seed=1)
    for count in range(4):
        observation, _, terminated, truncated, _ = env.step(KEEP_STILL)
        assert truncated.tolist() == [count == 3] * 3
        assert not terminated.any()
    after, rewards, _, truncated, infos = env.step(KEEP_STILL)
    assert same(observation, after)
    assert truncated.all()
    assert not rewards.any()
    assert infos["num_steps"].tolist() == [0, 0, 0]
    mask = np.array([False, True, False])
    begun, infos = env.reset(options={"reset_mask": mask})
    assert infos["_start"].tolist() == mask.tolist()
    assert infos["start"][0] is None
    assert np.array_equal(begun["proprio"][[0, 2]], after["proprio"][[0, 2]])
    assert not np.array_equal(begun["proprio"][1], after["proprio"][1])
    _, _, _, truncated, infos = env.step(KEEP_STILL)
    assert truncated.tolist() == [True, False, True]
    assert infos["num_steps"].tolist() == [0, 1, 0]


def test_success_is_rewarded_once_and_terminates(inner, monkeypatch):
    """The goal of one environment is met from its second control step on."""
    env = LiberoGymEnv(inner, TASKS, max_episode_steps=9, chunk=3)
    assert env.action_space.shape == (3, 3, 7)
    env.reset(seed=2)
    advance = LiberoVectorEnv.advance

    def second_reaches_goal(self, jobs, *, stop_on_success):
        for env_id, done in advance(self, jobs, stop_on_success=stop_on_success):
            if env_id == 1:
                done.success[:] = [False, True]
            yield env_id, done

    chunk = np.repeat(KEEP_STILL[:, None], 3, axis=1)
    with monkeypatch.context() as patch:
        patch.setattr(LiberoVectorEnv, "advance", second_reaches_goal)
        _, rewards, terminated, truncated, infos = env.step(chunk)
    assert rewards.tolist() == [0.0, 1.0, 0.0]
    assert terminated.tolist() == infos["success"].tolist() == [False, True, False]
    assert not truncated.any()
    assert infos["num_steps"].tolist() == [3, 2, 3]
    for _ in range(2):
        _, rewards, terminated, truncated, infos = env.step(chunk)
        assert not rewards.any()
    assert terminated.tolist() == [False, True, False]
    assert truncated.tolist() == [True, False, True]


def test_failures_truncate_and_are_told(env, inner, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # MuJoCo writes its log into the working folder
    env.reset(seed=3)
    env.step(KEEP_STILL)
    episode = inner._episodes[2]
    episode.state.integration[1 + inner._scene(episode.task).model.nq + 3] = np.nan
    _, _, terminated, truncated, infos = env.step(KEEP_STILL)
    assert not terminated.any()
    assert truncated.tolist() == infos["_failure"].tolist() == [False, False, True]
    assert "MuJoCo's state went bad" in infos["failure"][2]
    mask = np.array([False, False, True])
    bad = EpisodeStart(SUITE, 0, 50)
    observation, infos = env.reset(options={"reset_mask": mask, "starts": [bad]})
    assert "init_index 50 is out of range" in infos["failure"][2]
    assert env.observation_space.contains(observation)
    assert env.step(KEEP_STILL)[3].tolist() == [False, False, True]
    _, infos = env.reset(options={"reset_mask": mask})
    assert "failure" not in infos
    assert not env.step(KEEP_STILL)[3][2]


def test_gymnasiums_wrapper_counts_episodes(env):
    wrapped = RecordEpisodeStatistics(env)
    wrapped.reset(seed=4)
    for _ in range(4):
        infos = wrapped.step(KEEP_STILL)[-1]
    assert infos["episode"]["l"].tolist() == [4, 4, 4]


def test_a_step_that_raises_counts_for_those_who_took_it():
    """Over processes, of which one dies."""
    env = LiberoGymEnv(LiberoProcessEnv(num_envs=2, num_workers=2, image_size=32), TASKS[:2], max_episode_steps=3)
    observation, _ = env.reset(seed=0)
    assert env.observation_space.contains(observation)
    os.kill(env.env._workers[1].process.pid, signal.SIGKILL)
    with pytest.raises(ChunkError, match=r"environment 1 .* killed by SIGKILL"):
        env.step(KEEP_STILL[:2])
    env.reset(options={"reset_mask": np.array([False, True])})
    assert [env.step(KEEP_STILL[:2])[3].tolist() for _ in range(2)] == [[False, False], [True, False]]
    env.close()
    assert env.closed
    with pytest.raises(VectorEnvError, match="this LiberoProcessEnv is closed"):
        env.reset()


def test_bad_input(env, inner):
    for arguments, message in (
        ({"tasks": TASKS[:1]}, "one task per environment, 3 in all, given 1"),
        ({"max_episode_steps": 0}, "max_episode_steps=0 must be at least 1"),
        ({"chunk": 0}, "chunk=0 must be at least 1"),
    ):
        with pytest.raises(VectorEnvError, match=message):
            LiberoGymEnv(inner, **{"tasks": TASKS, "max_episode_steps": 1, **arguments})
    with pytest.raises(VectorEnvError, match=r"unknown options \['mask'\] of reset\(\): expected some of reset_mask"):
        env.reset(options={"mask": None})
    with pytest.raises(VectorEnvError, match=re.escape("must be 3 truth values, not all of them false, given [True]")):
        env.reset(options={"reset_mask": [True]})
    env.reset(seed=0)
    with pytest.raises(VectorEnvError, match=r"actions must have shape \(3, 7\), given \(3, 1, 7\)"):
        env.step(KEEP_STILL[:, None])
