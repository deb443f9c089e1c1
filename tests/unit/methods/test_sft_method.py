"""Supervised fine-tuning in a sequence: on demonstrations, and on the policy's own successes."""

from dataclasses import replace

import h5py
import numpy as np
import pytest
import torch

from rlinf.config import ConfigError, load_config
from rlinf.config.schema import AlgorithmConfig, MethodConfig, ReplayConfig, SFTConfig
from rlinf.custom.methods import TaskContext, make_method
from rlinf.engines.experience import prepare_experience
from rlinf.models import PolicyInputs
from tests.small_policy import make_learner, make_rollouts, read_policy
from tests.unit.methods.replay_demos import write_hdf5

IMITATION = AlgorithmConfig(adv_type="success", loss_type="sft", filter_rewards=False, update_epoch=4)


@pytest.fixture
def on_demonstrations(tmp_path):
    """The method, with two demonstrations of six frames of task 3."""
    folder = write_hdf5(tmp_path, task_ids=[3])
    replay = ReplayConfig(demonstrations=str(folder), demonstrations_per_task=None)
    return make_method(MethodConfig(name="sft", replay=replay))


def _log_likelihood(policy, rollouts) -> float:
    inputs = PolicyInputs(
        torch.from_numpy(np.asarray(rollouts.frames_SNHWC)),
        tuple(rollouts.languages[number] for number in rollouts.language_S),
    )
    with torch.no_grad():
        out = policy.evaluate_actions(inputs, torch.from_numpy(rollouts.bins_SCA), temperature=1.6)
    return float(out.logprobs_BCA[torch.from_numpy(rollouts.executed_SC)].mean())


def test_the_launcher_chooses_the_loss():
    config = load_config("crl_experiment/libero_spatial_grpo_tiny", ["method=sft"])
    assert (config.algorithm.adv_type, config.algorithm.loss_type) == ("success", "sft")
    assert config.method.replay.demonstrations_per_task is None


def test_demonstrations_are_learnt_from_frame_by_frame(on_demonstrations, small_policy, tmp_path):
    policy = read_policy(small_policy)
    learner = make_learner(policy, on_demonstrations, algorithm=IMITATION, lr=0.01)
    task = TaskContext((3,), tmp_path / "run")
    assert not learner.method.collects
    learner.method.check(task)
    learner.method.on_task_start(task, policy)
    rollouts = learner.method.experience()
    assert rollouts.num_samples == 12
    assert rollouts.executed_SC.sum(1).tolist() == [6, 5, 4, 3, 2, 1] * 2, "nothing after the demonstration's end"
    with h5py.File(next((tmp_path / "libero_spatial").glob("*.hdf5"))) as file:
        actions_TA = torch.from_numpy(file["data/demo_0/actions"][:].astype(np.float32))
    bins_TA = rollouts.bins_SCA[[1, 2, 0, 0], [0, 1, 3, 5]]  # chunk 1 begins with action 1, its neighbour has 3 second
    expected = policy.encode_actions(actions_TA[[1, 3, 3, 5]][:, None], nearest=False).view(4, 7)
    np.testing.assert_array_equal(bins_TA, expected)
    before = _log_likelihood(policy, rollouts)
    metrics = learner.update(rollouts, seed=0)
    assert _log_likelihood(policy, rollouts) > before + 0.05
    assert metrics["train/loss/policy"] > 0
    assert not {"train/approx_kl", "train/clip_fraction"} & metrics.keys(), "there is no other policy"


def test_missing_demonstrations_are_named_before_anything_starts(on_demonstrations, tmp_path):
    with pytest.raises(ConfigError, match="replay needs demonstrations of libero_spatial"):
        on_demonstrations.check(TaskContext((4,), tmp_path))


def test_own_successes_are_imitated_and_nothing_else(small_policy):
    method = make_method(MethodConfig(name="sft", sft=SFTConfig(source="own")))
    assert method.collects
    rollouts = make_rollouts()
    experience = prepare_experience(rollouts, IMITATION)
    won_S = np.array([episode.success_once for episode in rollouts.episodes])[rollouts.episode_S]
    np.testing.assert_array_equal(experience.kept_S, np.flatnonzero(won_S))
    assert float(experience.weights_SC.sum()) * 7 == pytest.approx(1), "a mean over what is imitated"
    policy = read_policy(small_policy)
    before = _log_likelihood(policy, rollouts.select(experience.kept_S))
    make_learner(policy, method, algorithm=IMITATION, lr=0.01).update(rollouts, seed=0)
    assert _log_likelihood(policy, rollouts.select(experience.kept_S)) > before + 0.05


def test_without_a_success_nothing_is_learnt(small_policy):
    rollouts = make_rollouts()
    lost = replace(rollouts, episodes=tuple(replace(e, success_once=False) for e in rollouts.episodes))
    policy = read_policy(small_policy)
    before = {name: value.clone() for name, value in policy.module.state_dict().items()}
    metrics = make_learner(policy, algorithm=IMITATION).update(lost, seed=0)
    assert metrics["train/num_samples"] == 0
    assert all(torch.equal(value, before[name]) for name, value in policy.module.state_dict().items())
