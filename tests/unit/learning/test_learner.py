"""Policy, adapter and updates in one process, with and without a value head."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from rlinf.config.errors import DivergedError
from rlinf.config.schema import AlgorithmConfig
from rlinf.custom.methods import ContinualMethod
from rlinf.data import JoinedFrames, Observation
from rlinf.engines.checkpoint import load_training_state, save_actor
from rlinf.engines.experience import prepare_experience
from rlinf.engines.fsdp import gather_trainable, load_trainable
from rlinf.engines.learner import PolicyLearner, minibatches, rank_share
from rlinf.models import Policy, PolicyInputs
from rlinf.run_layout import checkpoints, prune, start_writing
from tests.simple_cnn import read_cnn, write_cnn
from tests.small_policy import (
    LANGUAGE,
    PPO,
    inputs_of,
    make_learner,
    make_rollouts,
    read_policy,
    save,
    success_margin,
    weights_of,
)

ALGORITHMS = pytest.mark.parametrize("algorithm", [AlgorithmConfig(), PPO], ids=["grpo", "ppo"])


def _learner(checkpoint, algorithm=None, *, method=None, micro_batch=8) -> PolicyLearner:
    policy = read_policy(checkpoint, critic=algorithm is PPO)
    return make_learner(policy, method, algorithm=algorithm, micro_batch=micro_batch)


def _same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def _observation(count: int) -> Observation:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, 1, 256, 256, 3), dtype=np.uint8)
    return Observation(images, np.zeros((count, 8), np.float32), (LANGUAGE,) * count)


@pytest.fixture(params=["openvla_oft", "simple_cnn"])
def read(request, small_policy, tmp_path) -> Callable[..., Policy]:
    """Reads a policy of a kind, with trained weights if they are given."""
    if request.param == "simple_cnn":
        return partial(read_cnn, write_cnn(tmp_path / "cnn"))
    return lambda *, weights=None, critic=False: read_policy(small_policy, lora_path=weights, critic=critic)


def test_actions_depend_on_their_random_numbers_and_not_on_the_batch(read):
    policy = read()
    uniforms = np.random.default_rng(1).random((3, 8, 7))
    inputs = policy.prepare(_observation(3))
    together = policy.act(inputs, temperature=1.0, uniforms_BCA=uniforms)
    alone = policy.act(
        PolicyInputs(inputs.images_BNHWC[2:], inputs.languages[2:]), temperature=1.0, uniforms_BCA=uniforms[2:]
    )
    assert together.bins_BCA.shape == together.env_actions_BCA.shape == (3, 8, 7)
    assert torch.equal(together.bins_BCA[2], alone.bins_BCA[0])
    assert np.abs(together.env_actions_BCA).max() <= 1


def test_sampling_follows_the_distribution(small_policy):
    policy = read_policy(small_policy)
    count = 400
    inputs = policy.prepare(_observation(1))
    repeated = PolicyInputs(inputs.images_BNHWC.repeat(count, 1, 1, 1, 1), inputs.languages * count)
    uniforms = np.random.default_rng(2).random((count, 8, 7))
    output = policy.act(repeated, temperature=0.05, uniforms_BCA=uniforms)  # sharpened, so that few bins share the mass
    expected = policy.evaluate_actions(repeated, output.bins_BCA, temperature=0.05)
    assert torch.allclose(output.logprobs_BCA, expected.logprobs_BCA, atol=1e-4)
    # The mean negative log-probability of samples estimates the entropy.
    gap = (-output.logprobs_BCA.mean(0) - expected.entropy_BCA[0]).abs().mean()
    assert gap < 0.1


def test_minibatches_cover_every_sample_once():
    kept = np.arange(100, 125)
    batches = minibatches(kept, batch_size=10, rng=np.random.default_rng(0))
    assert [len(batch) for batch in batches] == [9, 8, 8]
    assert sorted(np.concatenate(batches)) == list(kept)


def test_ranks_share_a_minibatch_without_counting_a_sample_twice():
    samples = np.arange(7)
    shares = [rank_share(samples, rank=rank, world_size=3, micro_batch=2) for rank in range(3)]
    assert len({len(share) for share in shares}) == 1, "sharded forwards are collective"
    counted = [sample for share in shares for micro, count in share for sample in micro[:count]]
    assert sorted(counted) == list(range(7))


def test_micro_batches_are_the_fewest_and_nearly_equal():
    """What a method adds is a mean over each."""
    samples = np.arange(130)
    shares = rank_share(samples, rank=0, world_size=1, micro_batch=64)
    assert [(len(micro), counted) for micro, counted in shares] == [(44, 44), (43, 43), (43, 43)]
    assert np.array_equal(np.concatenate([micro for micro, _ in shares]), samples)
    shares = [rank_share(samples[:9], rank=rank, world_size=4, micro_batch=2) for rank in range(4)]
    assert [[counted for _, counted in share] for share in shares] == [[2, 1], [2, 1], [2, 1], [0, 0]]


def _at_version(rollouts, version):
    return replace(rollouts, episodes=tuple(replace(one, policy_version=version) for one in rollouts.episodes))


def _sampled_by(learner: PolicyLearner, rollouts, *, shift: float = 0.0):
    """The rollouts with the log-probabilities that the learner's policy gives them, less ``shift``."""
    with torch.no_grad():
        out = learner.policy.evaluate_actions(inputs_of(rollouts), torch.from_numpy(rollouts.bins_SCA), temperature=1.6)
    return replace(rollouts, logprobs_SCA=out.logprobs_BCA.numpy() - np.float32(shift))


def test_samples_of_the_epoch_before_are_weighed_and_clipped_around_the_present_policy(small_policy):
    lagging = AlgorithmConfig(max_policy_lag=1, lag_weight_cap=3.0)
    fresh = _learner(small_policy)
    rollouts = _sampled_by(fresh, make_rollouts())
    expected = fresh.update(rollouts, seed=0)
    # What the older policy found as likely: the same update, although one does not know that before.
    same = _learner(small_policy, lagging)
    metrics = same.update(_at_version(rollouts, 4), seed=0, version=5)
    assert metrics["train/policy_lag"] == 1
    assert max(np.abs(a - weights_of(fresh)[name]).max() for name, a in weights_of(same).items()) < 1e-6
    # Half as likely: PPO's ratio would be 2 and clipped; here each token counts twice.
    half = _learner(small_policy, lagging)
    metrics = half.update(_at_version(_sampled_by(half, rollouts, shift=np.log(2)), 4), seed=0, version=5)
    assert metrics["train/clip_fraction"] == 0
    assert metrics["train/grad_norm"] == pytest.approx(2 * expected["train/grad_norm"], rel=1e-3)
    # The present policy's: nothing is corrected.
    on_policy = _learner(small_policy, lagging)
    assert on_policy.update(_at_version(rollouts, 5), seed=0, version=5)["train/policy_lag"] == 0
    assert _same(weights_of(on_policy), weights_of(fresh))


@pytest.mark.parametrize(("version", "words"), [(6, "2 to 2 epochs old"), (3, "-1 to -1 epochs old")])
def test_samples_of_other_policies_than_allowed_are_refused(small_policy, version, words):
    learner = _learner(small_policy, AlgorithmConfig(max_policy_lag=1))
    before = weights_of(learner)
    with pytest.raises(ValueError, match=f"{words} came to the update of epoch {version}, expected 0 to 1"):
        learner.update(_at_version(make_rollouts(), 4), seed=0, version=version)
    assert _same(before, weights_of(learner))


def test_learning_rates_rise_at_the_start_and_a_resumed_run_takes_the_same(small_policy, tmp_path):
    rollouts = make_rollouts()

    def learner(warmup: int, weights: Path | None = None) -> PolicyLearner:
        policy = read_policy(small_policy, lora_path=weights)
        return make_learner(policy, micro_batch=8, global_batch=24, lr_warmup_steps=warmup)

    start = weights_of(learner(0))
    at_once, warming = learner(0), learner(4)
    at_once.update(rollouts, seed=0)
    rates = [warming.update(rollouts, seed=0)["train/lr"]]
    for name, full in weights_of(at_once).items():
        np.testing.assert_allclose(weights_of(warming)[name] - start[name], (full - start[name]) / 4, atol=1e-6)
    rates.append(warming.update(rollouts, seed=1)["train/lr"])
    saved = save(warming, tmp_path)
    resumed = learner(4, saved)
    load_training_state(resumed, saved)
    rates += [resumed.update(rollouts, seed=seed)["train/lr"] for seed in (2, 3, 4)]
    assert rates == pytest.approx([0.25e-3, 0.5e-3, 0.75e-3, 1e-3, 1e-3])
    for seed in (2, 3, 4):
        warming.update(rollouts, seed=seed)
    assert _same(weights_of(warming), weights_of(resumed))


@pytest.mark.filterwarnings("error:The given NumPy array is not writable")
def test_an_update_does_not_depend_on_where_images_lie(small_policy):
    rollouts, weights = make_rollouts(), []
    parts = np.split(rollouts.frames_SNHWC, [5, 6, 17])
    for part in parts:
        part.flags.writeable = False  # as in Ray's object store
    for frames in (rollouts.frames_SNHWC, JoinedFrames(tuple(parts))):
        learner = _learner(small_policy)
        learner.update(replace(rollouts, frames_SNHWC=frames), seed=0)
        weights.append(weights_of(learner))
    assert _same(*weights)


def test_update_raises_the_probability_of_what_succeeded(small_policy):
    learner, rollouts = _learner(small_policy), make_rollouts()
    before = success_margin(learner.policy, rollouts)
    for epoch in range(3):
        metrics = learner.update(rollouts, seed=epoch)
    assert success_margin(learner.policy, rollouts) > before + 1e-3
    assert metrics["train/num_samples"] == 24
    assert metrics["train/num_steps"] == 2
    assert metrics["train/grad_norm"] > 0


@ALGORITHMS
def test_micro_batches_do_not_change_the_update(small_policy, algorithm):
    results = []
    for micro_batch in (12, 5):
        learner = _learner(small_policy, algorithm, micro_batch=micro_batch)
        learner.update(make_rollouts(critic=algorithm is PPO), seed=0)
        results.append(weights_of(learner))
    for name, tensor in results[0].items():
        np.testing.assert_allclose(tensor, results[1][name], atol=2e-5, err_msg=name)


def test_groups_without_contrast_change_nothing(small_policy):
    learner, rollouts = _learner(small_policy), make_rollouts(group_size=2)
    before = weights_of(learner)
    won = tuple(replace(episode, success_once=True, total_reward=5.0) for episode in rollouts.episodes)
    metrics = learner.update(replace(rollouts, episodes=won), seed=0)
    assert metrics["train/num_samples"] == metrics["train/kept_episodes"] == 0
    assert _same(before, weights_of(learner))


class Spoiling(ContinualMethod):
    """Makes a gradient NaN, of the policy's or of the value head's parameters, or adds an infinite term."""

    def __init__(self, part: str) -> None:
        self.part = part

    def loss_terms(self, policy):
        return {"penalty": torch.tensor(torch.inf)} if self.part == "term" else {}

    def on_backward(self, policy):
        parameters = policy.value_head.parameters() if self.part == "value" else policy.trainable_modules()["llm"]
        next(parameter for parameter in parameters if parameter.grad is not None).grad.fill_(torch.nan)


def test_an_epoch_whose_gradients_are_all_zero_is_refused(small_policy):
    """Every ratio is clipped: of successes it is far above the bounds, of failures far below."""
    rollouts = make_rollouts()
    won_S = np.array([episode.success_once for episode in rollouts.episodes])[rollouts.episode_S]
    old = np.where(won_S[:, None, None], np.float32(-20), np.float32(0)) + np.zeros_like(rollouts.logprobs_SCA)
    policy = read_policy(small_policy)
    with pytest.raises(DivergedError, match=r"all 2 gradients of this epoch are zero, although 24 of 24 samples"):
        make_learner(policy).update(replace(rollouts, logprobs_SCA=old), seed=0)


@ALGORITHMS
def test_losses_are_means_over_passes(small_policy, algorithm):
    """With a learning rate of 0 every pass over the samples finds the same."""
    losses = []
    for passes in (1, 3):
        policy = read_policy(small_policy, critic=algorithm is PPO)
        learner = make_learner(policy, algorithm=replace(algorithm, update_epoch=passes), lr=0.0, value_lr=0.0)
        metrics = learner.update(make_rollouts(critic=algorithm is PPO), seed=0)
        losses.append([value for name, value in metrics.items() if name.startswith("train/loss/")])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert all(losses[0])


@pytest.mark.parametrize("options", [{"adv_type": "rloo"}, {"clip_ratio_dual": 1.5}, {"importance_ratio": "sequence"}])
def test_options_change_what_is_learnt(small_policy, options):
    """From the second step on, when ratios are not 1 any more."""
    changed = []
    for algorithm in (AlgorithmConfig(update_epoch=3), AlgorithmConfig(update_epoch=3, **options)):
        learner = make_learner(read_policy(small_policy), algorithm=algorithm, lr=0.03)
        learner.update(make_rollouts(), seed=0)
        changed.append(learner.policy.module.state_dict())
    assert any(not torch.equal(changed[0][name], changed[1][name]) for name in changed[0])


@pytest.mark.parametrize(
    ("algorithm", "part", "message"),
    [
        (AlgorithmConfig(), "rollouts", "policy loss is nan .*; the micro-batch is in "),
        (PPO, "rollouts", "policy loss is nan .*; the micro-batch is in "),
        (PPO, "term", "penalty loss is inf .*; the micro-batch is in "),
        (PPO, "policy", "^policy gradient norm is nan .*; the minibatch is in "),
        (PPO, "value", "^value gradient norm is nan .*; the minibatch is in "),
    ],
    ids=["grpo", "ppo", "term", "policy", "value"],
)
def test_what_is_not_finite_stops_the_run_before_any_weight_changes_and_is_saved(
    small_policy, tmp_path, algorithm, part, message
):
    learner = _learner(small_policy, algorithm, method=None if part == "rollouts" else Spoiling(part))
    learner.folder = tmp_path / "run"
    before, rollouts = weights_of(learner), make_rollouts(critic=algorithm is PPO)
    if part == "rollouts":
        rollouts.logprobs_SCA[:] = np.nan
    with pytest.raises(FloatingPointError, match=rf"{message}.*bad_batch\.npz"):
        learner.update(rollouts, seed=0)
    assert _same(before, weights_of(learner))
    with np.load(tmp_path / "run" / "bad_batch.npz") as saved:
        positions = saved["position_S"]
        assert len(positions) == len(saved["advantages_S"]) == (6 if "micro" in message else 12)
        np.testing.assert_array_equal(saved["frames_SNHWC"], rollouts.frames_SNHWC[positions])
        np.testing.assert_array_equal(saved["logprobs_SCA"], rollouts.logprobs_SCA[positions])
        assert set(saved["languages_S"]) == {LANGUAGE}
        assert ("returns_S" in saved) == (algorithm is PPO)


@ALGORITHMS
def test_weights_travel_to_another_copy(small_policy, algorithm):
    learner, other = _learner(small_policy, algorithm), read_policy(small_policy, critic=algorithm is PPO)
    learner.update(make_rollouts(critic=algorithm is PPO), seed=0)
    load_trainable(other.module, gather_trainable(learner.policy.module))
    uniforms, inputs = np.random.default_rng(5).random((2, 8, 7)), other.prepare(_observation(2))
    mine, theirs = (p.act(inputs, temperature=1.0, uniforms_BCA=uniforms) for p in (learner.policy, other))
    assert torch.equal(mine.logprobs_BCA, theirs.logprobs_BCA)
    if algorithm is PPO:
        assert mine.values_B.any()
        assert torch.equal(mine.values_B, theirs.values_B)
    with pytest.raises(ValueError, match="names differ"):
        load_trainable(other.module, {})


@ALGORITHMS
def test_resuming_equals_going_on(read, tmp_path, algorithm):
    critic = algorithm is PPO
    rollouts, straight = make_rollouts(critic=critic), make_learner(read(critic=critic), algorithm=algorithm)
    straight.update(rollouts, seed=0)
    saved = save(straight, tmp_path)
    straight.update(rollouts, seed=1)

    resumed = make_learner(read(weights=saved, critic=critic), algorithm=algorithm)
    assert load_training_state(resumed, saved) == 1
    resumed.update(rollouts, seed=1)
    assert _same(weights_of(straight), weights_of(resumed))


def test_checkpoints_are_complete_and_numbered(small_policy, tmp_path):
    assert checkpoints(tmp_path) == []
    learner = _learner(small_policy)
    for step in (1, 2, 10):
        save(learner, tmp_path, epoch=step)
    save_actor(learner, start_writing(tmp_path, 11) / "actor", epoch=11)  # interrupted before it got its name
    assert [found.step for found in checkpoints(tmp_path)] == [1, 2, 10]
    prune(tmp_path, keep=2)
    assert [found.step for found in checkpoints(tmp_path)] == [2, 10]


def test_modules_have_their_published_names(small_policy):
    modules = read_policy(small_policy).trainable_modules()
    assert sorted(modules) == ["head", "llm", "vision"]
    assert all(modules.values())


@ALGORITHMS
def test_learning_from_no_samples_is_refused(algorithm):
    rollouts = make_rollouts(critic=True).select(np.zeros(0, np.int64))
    with pytest.raises(ValueError, match="must have at least one sample, given none of 8 episodes"):
        prepare_experience(rollouts, algorithm)
