"""A collection of episodes: what comes out does not depend on when simulators and the policy answer."""

import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import ray

from rlinf.config.schema import EnvSplitConfig
from rlinf.data import CollectRequest, EpisodePlan, Observation, RolloutBatch
from rlinf.envs.episodes import EpisodeRecorder
from rlinf.models.transfer import Received
from rlinf.scheduler.cluster import Cluster
from rlinf.scheduler.worker_group import WorkerError
from rlinf.workers import collection
from rlinf.workers.collection import Collector
from rlinf.workers.random_action import RandomActionPolicy
from tests.e2e.toy_simulator import NUM_ACTIONS, Simulator


class Late(Received):
    """Arrives after it was looked at some times, as from a GPU that computes."""

    looks = 3

    def is_here(self) -> bool:
        self.looks -= 1
        return self.looks < 0


class Watched(RandomActionPolicy):
    """Notes the sizes of its batches."""

    def __init__(self) -> None:
        super().__init__(num_actions_chunk=NUM_ACTIONS)
        self.sizes: list[int] = []

    def prepare(self, observation: Observation) -> object:
        self.sizes.append(len(observation))
        return super().prepare(observation)


@pytest.fixture(scope="module")
def simulators():
    with Cluster(object_store_gb=0.1):
        yield [ray.remote(num_cpus=0, max_restarts=-1)(Simulator).remote() for _ in range(3)]


def play(
    simulators,
    episodes: Sequence[int],
    *,
    num_envs: int,
    max_batch: int,
    seconds: float | None = 0.0,
    timeout_s: float = 60,
    max_replaced: int = 0,
    policy: Watched | None = None,
):
    if seconds is not None:
        begin = [simulator.begin.options(max_task_retries=9) for simulator in simulators]  # one may have been killed
        ray.get([call.remote(seconds * (1 + i)) for i, call in enumerate(begin)])
    plans = tuple(EpisodePlan(episode, -1, "toy", 0, 0, 7) for episode in episodes)
    request = CollectRequest(plans, EnvSplitConfig(), temperature=1.0, stream=(3,), keep_samples=True)
    policy, recorder = policy or Watched(), EpisodeRecorder(ray.put)
    limits = {"num_stages": 2, "max_batch": max_batch, "timeout_s": timeout_s, "max_replaced": max_replaced}
    made = Collector(policy, simulators, request, recorder, num_envs=num_envs, **limits)
    collected = made.run()
    batch = RolloutBatch.cat([ray.get(ref) for ref in collected.batches])
    return collected, replace(batch, frames_SNHWC=np.asarray(batch.frames_SNHWC)), policy, recorder


def same(one: RolloutBatch, other: RolloutBatch) -> bool:
    names = ("frames_SNHWC", "bins_SCA", "logprobs_SCA", "rewards_SC", "episode_S")
    return one.episodes == other.episodes and all(np.array_equal(getattr(one, n), getattr(other, n)) for n in names)


@pytest.mark.parametrize("arriving", [Received, Late], ids=["at once", "late"])
def test_results_do_not_depend_on_timing(simulators, monkeypatch, arriving):
    monkeypatch.setattr(collection, "Received", arriving)
    expected = play(simulators[:1], range(13), num_envs=2, max_batch=64)[1]
    collected, batch, policy, recorder = play(simulators, range(13), num_envs=4, max_batch=3, seconds=0.01)
    assert same(batch, expected)
    assert max(policy.sizes) <= 3
    assert sum(policy.sizes) == collected.num_chunks == batch.num_samples == sum(1 + e % 3 for e in range(13))
    assert (recorder.num_done, recorder.num_successes) == (13, 13)
    assert collected.inference_s > 0
    assert collected.waiting_s > 0
    # Every sample is what was shown and what was done about it.
    frames_SC = batch.frames_SNHWC[:, 0, 0, 0]
    assert np.array_equal(frames_SC[:, 0], batch.episode_S)
    assert np.array_equal(frames_SC[:, 1], np.concatenate([np.arange(1 + e % 3) for e in range(13)]))
    assert np.array_equal(batch.rewards_SC > 0, batch.bins_SCA[..., 0] < 128)


class Faulty(Watched):
    """Sends signals to a process while it prepares its fifth batch and every ``every``-th after it."""

    def __init__(self, simulator, number: signal.Signals, *, every: int = 1000) -> None:
        super().__init__()
        self._simulator, self._number, self._every = simulator, number, every

    def prepare(self, observation: Observation) -> object:
        if len(self.sizes) >= 5 and (len(self.sizes) - 5) % self._every == 0:
            os.kill(ray.get(self._simulator.pid.options(max_task_retries=9).remote()), self._number)
        return super().prepare(observation)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_simulator_that_dies_or_hangs_is_replaced_and_plays_its_episodes_again(simulators, number):
    expected = play(simulators[:1], range(40), num_envs=2, max_batch=64)[1]
    policy = Faulty(simulators[1], number)
    limits = {"timeout_s": 8.0, "max_replaced": 1}
    collected, batch, _, recorder = play(simulators, range(40), num_envs=4, max_batch=3, policy=policy, **limits)
    assert same(batch, expected)
    assert (recorder.num_done, collected.num_replaced) == (40, 1)
    assert sum(policy.sizes) > batch.num_samples, "some chunks were played twice"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_one_that_dies_or_hangs_between_collections_is_told_the_rules_before_it_plays(simulators, number):
    expected = play(simulators[:1], range(13), num_envs=2, max_batch=64)[1]
    limits = {"timeout_s": 8.0, "max_replaced": 1}
    ray.get([simulator.begin.options(max_task_retries=9).remote(0.0) for simulator in simulators])
    os.kill(ray.get(simulators[1].pid.remote()), number)
    collected, batch, _, _ = play(simulators, range(13), num_envs=4, max_batch=3, seconds=None, **limits)
    assert same(batch, expected)
    assert collected.num_replaced == 1


def test_a_simulator_that_dies_again_and_again_ends_it(simulators):
    policy = Faulty(simulators[1], signal.SIGKILL, every=5)
    with pytest.raises(WorkerError, match=r"simulator 1 died 3 times \(runner.max_restarts\)"):
        play(simulators, range(400), num_envs=4, max_batch=3, policy=policy, max_replaced=2)


def test_a_busy_policy_gets_full_batches(simulators, monkeypatch):
    """While it computes, simulators are waited for that fill the next batch; small ones are for an idle policy."""
    asked_when_busy: list[int] = []

    class Noting(Collector):
        def _launch(self, answered):
            if self._flights and answered and len(self._queue):
                asked_when_busy.append(sum(self._pending[ref].num_asked for ref in answered))
            super()._launch(answered)

    monkeypatch.setattr(sys.modules[__name__], "Collector", Noting)
    monkeypatch.setattr(collection, "Received", Late)
    monkeypatch.setattr(Late, "looks", 10**4)  # it is busy until somebody waits for it, or for 20 s
    play(simulators, range(2, 110, 3), num_envs=4, max_batch=4)  # six stages of two environments, three chunks each
    assert asked_when_busy
    assert set(asked_when_busy) == {4}


def test_no_more_environments_are_used_than_are_busy_to_the_end(simulators):
    collected, _, policy, _ = play(simulators[:2], range(10), num_envs=4, max_batch=64)
    assert len(collected.results) == 10
    assert max(policy.sizes) <= 5, "in two rounds of five, not of eight and two"
