"""PPO in one process: the value head from rollouts to checkpoints."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from rlinf.data import RolloutBatch
from rlinf.engines.checkpoint import load_training_state
from rlinf.engines.experience import prepare_experience
from rlinf.engines.learner import PolicyLearner
from rlinf.models.value_head import VALUE_HEAD_FILE, in_value_head
from tests.small_policy import PPO, inputs_of, make_learner, make_rollouts, read_policy, save, weights_of


def _learner(checkpoint: Path, *, lora_path: Path | None = None, warmup: int = 0) -> PolicyLearner:
    policy = read_policy(checkpoint, lora_path=lora_path, critic=True)
    return make_learner(policy, algorithm=PPO, micro_batch=8, value_lr=3e-3, critic_warmup_steps=warmup)


def test_only_a_critic_has_a_value_head(small_policy):
    rollouts = make_rollouts()
    uniforms = np.full((rollouts.num_samples, 8, 7), 0.5)
    without = read_policy(small_policy)
    assert without.value_head is None
    assert without.act(inputs_of(rollouts), temperature=1.0, uniforms_BCA=uniforms).values_B is None
    policy = read_policy(small_policy, critic=True)
    output = policy.act(inputs_of(rollouts), temperature=1.0, uniforms_BCA=uniforms)
    assert output.values_B is not None
    assert output.values_B.tolist() == [0.0] * rollouts.num_samples
    names = [name for name, p in policy.module.named_parameters() if p.requires_grad and in_value_head(name)]
    assert len(names) == 5
    shared = {id(p) for params in policy.trainable_modules().values() for p in params}
    assert not shared & {id(p) for p in policy.value_head.parameters()}


def test_rewards_of_a_chunk_meet_the_value_before_it():
    rollouts = make_rollouts(num_groups=1, group_size=2, critic=True)
    values = np.array([1, 2, 3, 4, 5, 6], np.float32)
    config = replace(PPO, gamma=1.0, gae_lambda=0.0, normalize_advantages=False)
    experience = prepare_experience(replace(rollouts, values_S=values), config)
    # Episode 0 fails, episode 1 is rewarded with 5 in its last chunk; nothing comes after either.
    assert experience.advantages_S.tolist() == [1.0, 1.0, -3.0, 1.0, 1.0, -1.0]
    assert experience.critic is not None
    assert experience.critic.returns_S.tolist() == [2.0, 3.0, 0.0, 5.0, 6.0, 5.0]
    everything = np.arange(6)
    assert experience.critic.explained_variance(everything) == pytest.approx(
        1 - np.var([1, 1, -3, 1, 1, -1]) / np.var([2, 3, 0, 5, 6, 5])
    )


def test_rollouts_without_values_are_refused():
    with pytest.raises(ValueError, match="has no value head"):
        prepare_experience(make_rollouts(), PPO)
    with pytest.raises(ValueError, match=r"values_S must be float32 of shape \(48\), got float32 \(24,"):
        RolloutBatch.cat([make_rollouts(), make_rollouts(critic=True)])


def test_values_stay_with_their_chunks_in_collections():
    parts = [replace(make_rollouts(critic=True), values_S=np.full(24, value, np.float32)) for value in (1, 2)]
    whole = RolloutBatch.cat(parts)
    assert whole.values_S is not None
    assert whole.select(np.array([47, 0, 23])).values_S.tolist() == [2.0, 1.0, 1.0]


def test_update_brings_values_to_returns_and_favours_what_succeeded(small_policy):
    learner = _learner(small_policy)
    rollouts = make_rollouts(critic=True)
    bins = torch.from_numpy(rollouts.bins_SCA)
    won = torch.tensor([rollouts.episodes[e].success_once for e in rollouts.episode_S])

    def look() -> tuple[float, float, np.ndarray]:
        with torch.no_grad():
            out = learner.policy.evaluate_actions(inputs_of(rollouts), bins, temperature=1.6)
        logprobs = out.logprobs_BCA.mean((1, 2))
        assert out.values_B is not None
        return float(logprobs[won].mean() - logprobs[~won].mean()), float(out.values_B.mean()), out.values_B.numpy()

    margin, _, values = look()
    first = learner.update(rollouts, seed=0)
    assert first["train/num_samples"] == 24
    assert first["train/explained_variance"] == pytest.approx(0.0, abs=1e-6)
    for epoch in range(1, 4):
        metrics = learner.update(replace(rollouts, values_S=look()[2].astype(np.float32)), seed=epoch)
    after, mean, values = look()
    assert after > margin + 1e-3
    assert mean > 0.1, "values move from zero towards the returns"
    assert metrics["train/loss/value"] < first["train/loss/value"]
    assert 0 <= metrics["train/value_clip_fraction"] <= 1
    assert len(values) == 24


def test_warm_up_trains_the_value_head_alone(small_policy, tmp_path):
    learner = _learner(small_policy, warmup=3)
    start = weights_of(learner)
    rollouts = make_rollouts(critic=True)
    learner.update(rollouts, seed=0)  # two of the three steps
    warm = weights_of(learner)
    changed = {name for name in start if not np.array_equal(start[name], warm[name])}
    assert changed
    assert all(in_value_head(name) for name in changed)
    # A resumed run does not begin to warm up again: of its two steps, the second trains the policy.
    saved = save(learner, tmp_path)
    resumed = _learner(small_policy, lora_path=saved, warmup=3)
    load_training_state(resumed, saved)
    for one in (learner, resumed):
        one.update(rollouts, seed=1)
    assert any(not np.array_equal(warm[name], value) for name, value in weights_of(learner).items() if "lora_" in name)
    for name, value in weights_of(learner).items():
        np.testing.assert_array_equal(value, weights_of(resumed)[name], err_msg=name)


def test_checkpoints_hold_the_value_head_beside_the_adapter(small_policy, tmp_path):
    learner = _learner(small_policy)
    learner.update(make_rollouts(critic=True), seed=0)
    saved = save(learner, tmp_path)
    assert all("lora_" in name for name in load_file(saved / "adapter_model.safetensors"))
    head = load_file(saved / VALUE_HEAD_FILE)
    assert sorted(head) == ["head_l1.bias", "head_l1.weight", "head_l2.bias", "head_l2.weight", "head_l3.weight"]
    for name, value in read_policy(small_policy, lora_path=saved, critic=True).value_head.state_dict().items():
        assert torch.equal(value, head[name])
    assert read_policy(small_policy, lora_path=saved).value_head is None, "GRPO goes on from a policy of PPO"
    (saved / VALUE_HEAD_FILE).unlink()
    fresh = read_policy(small_policy, lora_path=saved, critic=True).value_head
    assert not fresh.head_l3.weight.any(), "an adapter from GRPO gets a fresh value head"
