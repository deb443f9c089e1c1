"""The convolutional policy: updates, checkpoints, its supervised start, and the random baseline.

What it has in common with others: test_learner.py.
"""

import json
from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
import torch

from openvla_oft.data.augment import AugmentConfig
from rlinf.cli.launcher import read_arguments
from rlinf.cli.pretrain_simple_cnn import main as pretrain_main
from rlinf.cli.run_sequence import sequence_steps
from rlinf.config import ConfigError
from rlinf.config.schema import ModelConfig
from rlinf.custom.simple_cnn_utils import PretrainConfig, pretrain
from rlinf.data import Observation
from rlinf.engines.checkpoint import save_actor
from rlinf.engines.fsdp import gather_trainable, load_trainable
from rlinf.models import PolicySource, ReplayablePolicy, find_weights, load_policy
from rlinf.models.simple_cnn import CNNSettings, embed_instruction
from rlinf.run_layout import publish, start_writing
from rlinf.workers.random_action import RandomActionPolicy
from tests.sequences import at
from tests.simple_cnn import read_cnn, write_cnn
from tests.small_policy import LANGUAGE, PPO, make_learner, make_rollouts
from tests.study import write_record
from tests.unit.finetuning.sft_demos import LANGUAGES, load, write_suite
from transformers_openvla_oft import CheckpointError
from transformers_openvla_oft.small import libero_sentences


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_cnn(tmp_path_factory.mktemp("cnn") / "tiny")


def _learner(checkpoint, *, critic=False):
    policy = read_cnn(checkpoint, critic=critic)
    return make_learner(policy, algorithm=PPO if critic else None, micro_batch=8)


def _observation(count, *, language=LANGUAGE):
    images = np.random.default_rng(0).integers(0, 256, (count, 1, 48, 48, 3), dtype=np.uint8)
    return Observation(images, np.zeros((count, 8), np.float32), (language,) * count)


def _uniforms(count, seed=0):
    return np.random.default_rng(seed).random((count, 8, 7))


def test_instructions_of_all_suites_are_told_apart():
    sentences = sorted({text.lower() for text in libero_sentences()})
    assert len(sentences) > 30
    vectors = np.stack([embed_instruction(text) for text in sentences])
    for first, second in combinations(range(len(sentences)), 2):
        assert np.abs(vectors[first] - vectors[second]).max() > 0.1, (sentences[first], sentences[second])
    np.testing.assert_array_equal(embed_instruction("Put the bowl"), embed_instruction("put the  bowl"))
    known = [-1.0233, 1.0233, -0.3909, -0.2416]  # stored weights rely on these numbers
    assert embed_instruction("put the bowl")[:4].tolist() == pytest.approx(known, abs=1e-4)


def test_every_weight_is_trained_and_belongs_to_one_module(checkpoint):
    policy = read_cnn(checkpoint, critic=True)
    modules = policy.trainable_modules()
    assert all(modules[name] for name in ("vision", "llm", "head"))
    grouped = [id(p) for params in modules.values() for p in params] + [id(p) for p in policy.value_head.parameters()]
    assert sorted(grouped) == sorted(id(p) for p in policy.module.parameters())


def test_a_checkpoint_acts_like_the_learner_that_wrote_it_also_as_a_base(checkpoint, tmp_path):
    learner = _learner(checkpoint, critic=True)
    learner.update(make_rollouts(critic=True), seed=0)
    save_actor(learner, start_writing(tmp_path, 1) / "actor", epoch=1)
    folder = publish(tmp_path, 1).actor
    other = read_cnn(checkpoint, critic=True)
    load_trainable(other.module, gather_trainable(learner.policy.module))
    inputs = other.prepare(_observation(2))
    wanted = learner.policy.act(inputs, temperature=1.0, uniforms_BCA=_uniforms(2)).logprobs_BCA
    for policy in (other, read_cnn(checkpoint, weights=folder), read_cnn(folder)):  # with and without the value head
        assert torch.equal(policy.act(inputs, temperature=1.0, uniforms_BCA=_uniforms(2)).logprobs_BCA, wanted)


def test_it_can_replay_demonstrations_and_its_own_start(checkpoint):
    learner = _learner(checkpoint)
    policy = learner.policy
    assert isinstance(policy, ReplayablePolicy)
    inputs = policy.prepare(_observation(2))
    given = torch.zeros((2, 56), dtype=torch.int64)
    before = policy.action_logits(inputs, given).detach()
    assert before.shape == (2, 56, 256)
    learner.update(make_rollouts(), seed=0)
    assert torch.equal(policy.base_logits(inputs, given), before)
    assert not torch.equal(policy.action_logits(inputs, given), before)
    bins = policy.act(inputs, temperature=1.0, uniforms_BCA=_uniforms(2))
    encoded = policy.encode_actions(torch.from_numpy(bins.env_actions_BCA), nearest=True)
    motion = slice(0, 6)  # the gripper has two states only
    assert torch.equal(encoded.view(2, 8, 7)[..., motion], bins.bins_BCA[..., motion].clamp(min=1))


def test_base_identity_sees_the_weights(checkpoint, tmp_path):
    policy, same = read_cnn(checkpoint), read_cnn(write_cnn(tmp_path / "same"))
    other = read_cnn(write_cnn(tmp_path / "other", hidden_size=48))
    bins = torch.zeros((4, 56), dtype=torch.int64)
    assert policy.base_identity(LANGUAGE, bins) == same.base_identity(LANGUAGE, bins)
    assert policy.base_identity(LANGUAGE, bins)["model"] != other.base_identity(LANGUAGE, bins)["model"]


def test_what_does_not_fit_is_refused(checkpoint, small_policy, tmp_path):
    other = write_cnn(tmp_path / "other", hidden_size=48)
    with pytest.raises(CheckpointError, match="does not fit the model"):
        read_cnn(checkpoint, weights=other)
    cnn = ModelConfig(model_name="simple_cnn", is_lora=False)
    source = PolicySource(checkpoint, unnorm_key="libero_goal", seed=0)
    with pytest.raises(ConfigError, match=r"no action statistics for 'libero_goal'; the checkpoint has \['libero_spa"):
        load_policy(cnn, source, base_dtype=torch.float32)
    with pytest.raises(ConfigError, match="has no adapter, all of its weights are trained"):
        load_policy(replace(cnn, is_lora=True), source, base_dtype=torch.float32)
    with pytest.raises(ConfigError, match="no adapter that could be merged"):
        load_policy(replace(cnn, previous_lora_paths=["a"]), source, base_dtype=torch.float32)
    with pytest.raises(ConfigError, match=r"'openvla', but the one in .* is of type 'simple_cnn'"):
        find_weights(ModelConfig(), checkpoint)
    with pytest.raises(ConfigError, match=r"'simple_cnn', but the one in .* is of type 'openvla'"):
        find_weights(cnn, small_policy)
    with pytest.raises(ConfigError, match=r"expected model\.pt in"):
        find_weights(replace(cnn, lora_path=str(small_policy)), checkpoint)


def test_the_supervised_start_learns_its_demonstrations(tmp_path):
    folder = write_suite(tmp_path / "demos", num_demos=1, num_steps=5)
    demos = load(folder, image_size=32)
    settings = CNNSettings(image_size=32, channels=(8, 16), squeezed_channels=4, hidden_size=64, token_size=16)
    common = {"batch_size": 10, "validation_fraction": 0.0, "num_warmup_steps": 5, "learning_rate": 5e-3}
    config = PretrainConfig(**common, num_steps=100, label_sigma=0.0, ema_decay=0.9, augment=AugmentConfig.off())
    result = pretrain(
        demos,
        suite="libero_spatial",
        settings=settings,
        config=config,
        output=tmp_path / "cnn",
        device=torch.device("cpu"),
    )
    assert result.train_loss < 0.1 * np.log(256)
    policy = read_cnn(tmp_path / "cnn")
    index = 3
    observation = Observation(demos.images_FNHWC[index : index + 1], np.zeros((1, 8), np.float32), LANGUAGES[:1])
    greedy = policy.act(policy.prepare(observation), temperature=0, uniforms_BCA=_uniforms(1)).env_actions_BCA[0, 0]
    np.testing.assert_allclose(greedy, demos.actions_FA[index], atol=0.15)


def test_the_command_writes_a_checkpoint_and_refuses_to_replace_it(tmp_path, capsys):
    demos = write_suite(tmp_path / "demos")
    output = tmp_path / "out"
    arguments = ["--demonstrations", str(demos), "--output", str(output), "--image-size", "32", "--num-workers", "0"]
    assert pretrain_main([*arguments, "--steps", "2", "--batch-size", "4"]) == 0
    record = json.loads((output / "training.json").read_text())
    assert record["demonstrations"] == 6
    assert record["result"]["validation_cross_entropy"] > 0
    assert read_cnn(output).chunk_shape == (8, 7)
    assert pretrain_main(arguments) == 2
    assert f"error: --output {output} exists; remove it or give another folder" in capsys.readouterr().err


def test_random_actions_are_uniform_and_repeat():
    policy = RandomActionPolicy(num_actions_chunk=8)
    inputs = policy.prepare(_observation(500))
    output = policy.act(inputs, temperature=0, uniforms_BCA=_uniforms(500))
    actions = output.env_actions_BCA
    assert actions.shape == (500, 8, 7)
    np.testing.assert_allclose(actions.mean((0, 1)), 0, atol=4 / 4000**0.5)
    np.testing.assert_allclose(actions[..., :6].std((0, 1)), 3**-0.5, atol=0.02)
    assert set(np.unique(actions[..., 6])) == {-1.0, 1.0}
    assert torch.allclose(output.logprobs_BCA, torch.full((), -np.log(256), dtype=torch.float32), atol=1e-5)
    again = policy.act(inputs, temperature=1.6, uniforms_BCA=_uniforms(500))
    np.testing.assert_array_equal(again.env_actions_BCA, actions)


def test_random_actions_do_not_stand_for_the_base_model(tmp_path):
    signature = "TASK_ID_OR_RANGE [CHECKPOINT_PATH] [MAX_EPOCH] [CONFIG_NAME] [SEED]"
    fixed = ["method=simple_cnn", "config=crl_experiment/libero_spatial_grpo_simple_cnn"]
    arguments = read_arguments(["run.sh", signature, "0", "--", *fixed])
    workspace = at(tmp_path)
    planned = []
    for method in ("random_action", "simple_cnn"):
        write_record(tmp_path / "logs" / "simple_cnn", method, 1234, (), [0.0])
        _, steps = sequence_steps(arguments, workspace)
        planned.append("evaluate the base model" in steps[0].todo)
    assert planned == [True, False]
