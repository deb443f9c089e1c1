"""A policy acts and is scored without dropout, whatever its adapter or checkpoint was trained with."""

import json

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from torch.testing import assert_close

from rlinf.data import Observation
from rlinf.models.simple_cnn import CNNSettings, fresh_cnn, load_cnn, save_cnn
from tests.small_policy import LANGUAGE, read_policy, write_policy
from transformers_openvla_oft import OpenVLAForActionPrediction, lora_target_modules

SEEN = Observation(
    np.random.default_rng(0).integers(0, 256, (2, 1, 32, 32, 3), np.uint8),
    np.zeros((2, 8), np.float32),
    (LANGUAGE, "open the drawer"),
)
UNIFORMS = np.random.default_rng(1)


def base(folder):
    return OpenVLAForActionPrediction.from_pretrained(folder, dtype=torch.float32)


@pytest.fixture(scope="module", params=[8, 1], ids=["in parallel", "token by token"])
def folder(request, tmp_path_factory):
    """A checkpoint whose language model was trained with dropout, and an adapter that was, too."""
    path = write_policy(tmp_path_factory.mktemp("policy") / "small", num_actions=request.param)
    config = json.loads((path / "config.json").read_text())
    config["text_config"]["attention_dropout"] = 0.3
    (path / "config.json").write_text(json.dumps(config))
    model = base(path)
    targets = list(lora_target_modules(model))
    wrapped = get_peft_model(model, LoraConfig(r=4, lora_alpha=4, lora_dropout=0.2, target_modules=targets))
    generator = torch.Generator().manual_seed(0)
    for name, parameter in wrapped.named_parameters():
        if "lora_" in name:
            parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator)
    wrapped.save_pretrained(path / "adapter")
    return path


def load(folder, *, trains, critic=False, **settings):
    return read_policy(folder, lora_path=folder / "adapter", trains=trains, critic=critic, **settings)


@pytest.mark.parametrize("trains", [False, True])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_logits_are_those_of_peft_in_evaluation_mode(folder, trains, checkpointing):
    policy = load(folder, trains=trains, gradient_checkpointing=checkpointing)
    inputs, bins = policy.prepare(SEEN), torch.zeros((2, policy.chunk_shape[0] * 7), dtype=torch.int64)
    once, twice = policy.action_logits(inputs, bins), policy.action_logits(inputs, bins)
    assert torch.equal(once, twice)
    assert torch.equal(policy.base_logits(inputs, bins), policy.base_logits(inputs, bins))
    policy.module = PeftModel.from_pretrained(base(folder), str(folder / "adapter")).eval()
    assert_close(once, policy.action_logits(inputs, bins), atol=1e-5, rtol=0)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_before_an_update_the_ratio_of_ppo_is_one(folder, checkpointing):
    acting = load(folder, trains=False, critic=True)
    learning = load(folder, trains=True, critic=True, gradient_checkpointing=checkpointing)
    for policy in (acting, learning):  # a fresh head says zero of everything
        nn.init.constant_(policy.value_head.head_l3.weight, 0.1)
    inputs = acting.prepare(SEEN)
    acted = acting.act(inputs, temperature=1.0, uniforms_BCA=UNIFORMS.random((2, *acting.chunk_shape)))
    scored = learning.evaluate_actions(inputs, acted.bins_BCA, temperature=1.0)
    assert_close(scored.logprobs_BCA, acted.logprobs_BCA, atol=1e-5, rtol=0)
    assert_close(scored.values_B, acted.values_B, atol=1e-5, rtol=0)
    scored.logprobs_BCA.mean().backward()


@pytest.mark.parametrize("checkpointing", [False, True])
def test_only_blocks_that_repeat_themselves_are_in_training_mode(folder, checkpointing):
    """Which is how transformers knows them; the parts of them where there could be dropout are not."""
    policy = load(folder, trains=True, critic=True, gradient_checkpointing=checkpointing)
    training = {module for module in policy.module.modules() if module.training} - set(policy.value_head.modules())
    assert training == (set(policy.units()) if checkpointing else set())


def test_the_adapters_own_dropout_is_kept_for_those_who_go_on_fine_tuning(folder, tmp_path):
    policy = load(folder, trains=True)
    tensors = {name: p.detach().numpy() for name, p in policy.module.named_parameters() if p.requires_grad}
    policy.save(tmp_path, tensors)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["lora_dropout"] == 0.2


def test_the_convolutional_policy_is_in_evaluation_mode(tmp_path):
    settings = CNNSettings(image_size=32, hidden_size=16)
    save_cnn(tmp_path, settings, fresh_cnn(settings, seed=0).state_dict())
    assert not load_cnn(tmp_path, settings, seed=0, critic=True).training
