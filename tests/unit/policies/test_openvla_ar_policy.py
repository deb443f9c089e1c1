"""Autoregressive OpenVLA as a policy: decoding, scoring, updates and methods in one process."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from rlinf.config import ConfigError, load_config, resolve_model, validate
from rlinf.config.schema import LwFConfig, MethodConfig, ModelConfig, ReplayConfig
from rlinf.custom.methods import TaskContext, make_method
from rlinf.custom.methods.parts.chunks import ActionChunks
from rlinf.data import Observation
from rlinf.models import POLICIES, PolicyInputs, PolicySource, load_policy, policy_kind
from tests.small_policy import LANGUAGE, PPO, disturb, make_learner, make_rollouts, read_policy, success_margin
from tests.unit.methods.replay_demos import SUITE, write_hdf5

LANGUAGES = (LANGUAGE, "open the drawer", "turn on the stove")


def _policy(checkpoint, **options):
    """Random weights hardly tell bins apart."""
    return disturb(read_policy(checkpoint, **options), 0.2)


def _trainable(policy):
    return [parameter for parameters in policy.trainable_modules().values() for parameter in parameters]


def _inputs(policy, count=3) -> PolicyInputs:
    images = np.random.default_rng(0).integers(0, 256, (count, 1, 64, 64, 3), dtype=np.uint8)
    return policy.prepare(Observation(images, np.zeros((count, 8), np.float32), LANGUAGES[:count]))


def _uniforms(count=3):
    return np.random.default_rng(1).random((count, 1, 7))


# --- Decoding and scoring


def test_tokens_see_those_before_them_and_none_after(autoregressive_policy):
    policy = _policy(autoregressive_policy)
    inputs, bins = _inputs(policy, 1), torch.arange(7)[None] + 100
    other = bins.clone()
    other[0, 3] = 7
    gap_T = (policy.action_logits(inputs, bins) - policy.action_logits(inputs, other)).abs().amax(-1)[0]
    assert (gap_T[:4] < 1e-5).all(), "the changed token is seen from the next one on"
    assert (gap_T[4:] > 1e-3).all()


def test_a_batch_of_prompts_of_different_lengths_equals_one_by_one(autoregressive_policy):
    policy = _policy(autoregressive_policy)
    inputs, uniforms = _inputs(policy), _uniforms()
    assert len({len(policy.processor.prompt_ids(language)) for language in LANGUAGES}) > 1
    together = policy.act(inputs, temperature=1.0, uniforms_BCA=uniforms)
    assert together.bins_BCA.shape == (3, 1, 7)
    assert together.env_actions_BCA.shape == (3, 1, 7)
    for row in range(3):
        part = PolicyInputs(inputs.images_BNHWC[[row]], inputs.languages[row : row + 1])
        alone = policy.act(part, temperature=1.0, uniforms_BCA=uniforms[[row]])
        assert torch.equal(alone.bins_BCA[0], together.bins_BCA[row])
        torch.testing.assert_close(alone.logprobs_BCA[0], together.logprobs_BCA[row], rtol=0, atol=1e-5)


def test_greedy_decoding_takes_the_most_likely_bin_after_its_own(autoregressive_policy):
    policy = _policy(autoregressive_policy)
    inputs = _inputs(policy)
    greedy = policy.act(inputs, temperature=0.0, uniforms_BCA=_uniforms())
    logits_BTV = policy.action_logits(inputs, greedy.bins_BCA.flatten(1))
    assert torch.equal(logits_BTV.argmax(-1), greedy.bins_BCA.flatten(1))
    assert torch.equal(policy.act(inputs, temperature=0.0, uniforms_BCA=1 - _uniforms()).bins_BCA, greedy.bins_BCA)


def test_gradient_checkpointing_changes_neither_decoding_nor_gradients(autoregressive_policy):
    plain = _policy(autoregressive_policy)
    frugal = read_policy(autoregressive_policy, gradient_checkpointing=True)
    frugal.module.load_state_dict(plain.module.state_dict())
    repeated = [block for block in frugal.units() if block.training]
    assert len(repeated) == len(frugal.units())
    inputs = _inputs(plain)
    wanted = plain.act(inputs, temperature=1.0, uniforms_BCA=_uniforms())
    given = frugal.act(inputs, temperature=1.0, uniforms_BCA=_uniforms())
    assert all(block.training for block in repeated), "also after it has acted"
    assert torch.equal(given.bins_BCA, wanted.bins_BCA)
    torch.testing.assert_close(given.logprobs_BCA, wanted.logprobs_BCA)
    for policy in (plain, frugal):
        policy.evaluate_actions(inputs, wanted.bins_BCA, temperature=1.0).logprobs_BCA.mean().backward()
    for mine, other in zip(*(_trainable(policy) for policy in (plain, frugal)), strict=True):
        torch.testing.assert_close(other.grad, mine.grad)


def test_bfloat16_rollouts_stay_near_the_updates(autoregressive_policy):
    """As on a GPU: frozen weights in bfloat16, adapter in float32."""
    policy = read_policy(autoregressive_policy, dtype=torch.bfloat16)
    inputs = _inputs(policy)
    acted = policy.act(inputs, temperature=1.0, uniforms_BCA=_uniforms())
    scored = policy.evaluate_actions(inputs, acted.bins_BCA, temperature=1.0)
    assert acted.logprobs_BCA.dtype == torch.float32
    torch.testing.assert_close(scored.logprobs_BCA, acted.logprobs_BCA, rtol=0, atol=0.02)


# --- Updates


def test_gradients_reach_every_adapter_that_runs(autoregressive_policy):
    policy = _policy(autoregressive_policy, critic=True)
    out = policy.evaluate_actions(_inputs(policy), torch.arange(21).view(3, 1, 7), temperature=1.0)
    (out.logprobs_BCA.mean() + out.values_B.mean()).backward()
    for part, parameters in policy.trainable_modules().items():
        reached = [p for p in parameters if p.grad is not None and p.grad.abs().max() > 0]
        # The last block of each tower and pooling heads never run.
        assert len(reached) >= (len(parameters) if part != "vision" else len(parameters) // 2), part
    assert all(p.grad.abs().max() > 0 for p in policy.value_head.parameters())


@pytest.mark.parametrize("algorithm", ["grpo", "ppo"])
def test_updates_raise_the_probability_of_rewarded_actions(autoregressive_policy, algorithm):
    critic = algorithm == "ppo"
    policy, rollouts = read_policy(autoregressive_policy, critic=critic), make_rollouts(num_actions=1, critic=critic)
    learner = make_learner(policy, algorithm=PPO if critic else None, micro_batch=6, lr=5e-3)
    before = success_margin(policy, rollouts)
    for epoch in range(3):
        metrics = learner.update(rollouts, seed=epoch)
    assert metrics["train/num_samples"] == rollouts.num_samples
    assert success_margin(policy, rollouts) > before + 0.03


# --- Continual-learning methods


def _task():
    return TaskContext((3,), Path(), (), suite=SUITE, micro_batch=6, seed=11)


def test_replay_is_teacher_forced_on_the_demonstration(autoregressive_policy, tmp_path):
    """The loss is the likelihood of the expert's whole action, each token after the expert's own."""
    policy = _policy(autoregressive_policy)
    demonstrations = write_hdf5(tmp_path, task_ids=range(10), num_demos=1, num_steps=4)
    method = make_method(MethodConfig("er", replay=ReplayConfig(demonstrations=str(demonstrations), coeff=1.0)))
    method.on_task_start(_task(), policy)
    loss = method.loss_terms(policy)["replay"]
    method.load_state_dict({"replay_draws": torch.tensor(0)})
    drawn = ActionChunks.of(method.demonstrations, method.draw())
    inputs = drawn.inputs(torch.device("cpu"))
    expected = -policy.evaluate_actions(inputs, drawn.bins_MCA, temperature=1.0).logprobs_BCA.mean()
    torch.testing.assert_close(loss, expected)


def test_lwf_is_teacher_forced_on_the_sampled_tokens(autoregressive_policy):
    policy = read_policy(autoregressive_policy)
    method = make_method(MethodConfig("lwf", lwf=LwFConfig(coeff=1.0)))
    method.on_task_start(_task(), policy)
    disturb(policy, 0.2)
    inputs = _inputs(policy)
    bins_BCA = policy.act(inputs, temperature=1.0, uniforms_BCA=_uniforms()).bins_BCA
    method.before_forward(policy, inputs, bins_BCA, torch.ones(3, 1, dtype=torch.bool))
    loss = method.loss_terms(policy)["lwf"]
    new = policy.action_logits(inputs, bins_BCA.flatten(1)).log_softmax(-1)
    old = read_policy(autoregressive_policy).action_logits(inputs, bins_BCA.flatten(1)).log_softmax(-1)
    torch.testing.assert_close(loss, (old.exp() * (old - new)).sum(-1).mean())
    assert loss > 1e-3


# --- Configuration


@pytest.mark.parametrize("name", ["grpo_openvla_spatial", "ppo_openvla_spatial", "grpo_tiny_openvla"])
@pytest.mark.parametrize("suffix", ["", "_eval"])
def test_configurations_are_complete(name, suffix):
    config = load_config(f"crl_experiment/libero_spatial_{name}{suffix}")
    validate(config, num_tasks=10)
    model = config.actor.model
    assert policy_kind(model) is POLICIES["openvla"]
    assert (model.num_action_chunks, config.env.suite) == (1, "libero_spatial")
    folder = "tiny-openvla-libero-spatial" if "tiny" in name else "openvla-7b-finetuned-libero-spatial"
    paths = (config.actor.checkpoint_load_path, config.rollout.model_dir, config.actor.tokenizer.tokenizer_model)
    assert set(paths) == {f"./model/{folder}"}
    assert (config.algorithm.adv_type == "gae") == ("ppo" in name)


def test_a_missing_model_names_its_download(tmp_path):
    kind = POLICIES["openvla"]
    with pytest.raises(ConfigError, match="hf download openvla/openvla-7b-finetuned-libero-spatial --local-dir"):
        resolve_model(
            str(tmp_path / "openvla-7b-finetuned-libero-spatial"), key="actor.checkpoint_load_path", obtain=kind.obtain
        )


def test_more_than_one_action_is_refused():
    with pytest.raises(ConfigError, match=r"num_action_chunks=8.*decodes 1 at a time: give .*num_action_chunks=1"):
        policy_kind(ModelConfig(model_name="openvla"))


def test_a_checkpoint_of_chunks_is_refused(small_policy):
    source = PolicySource(small_policy, unnorm_key=SUITE, seed=3)
    with pytest.raises(ConfigError, match=r"trained on chunks of 8.*openvla_oft"):
        load_policy(ModelConfig(model_name="openvla", num_action_chunks=1), source, base_dtype=torch.float32)


def test_a_checkpoint_that_states_no_chunk_is_read(autoregressive_policy, tmp_path):
    """As the published ones are."""
    stated = Path(shutil.copytree(autoregressive_policy, tmp_path / "published"))
    fields = json.loads((stated / "config.json").read_text())
    fields.pop("num_actions_chunk")
    (stated / "config.json").write_text(json.dumps(fields))
    source = PolicySource(stated, unnorm_key=SUITE, seed=3)
    model = ModelConfig(model_name="openvla", num_action_chunks=1, lora_rank=4)
    policy, known = load_policy(model, source, base_dtype=torch.float32), read_policy(autoregressive_policy)
    assert policy.chunk_shape == (1, 7)
    inputs = _inputs(known)
    wanted, given = (p.act(inputs, temperature=1.0, uniforms_BCA=_uniforms()).bins_BCA for p in (known, policy))
    assert torch.equal(given, wanted)
