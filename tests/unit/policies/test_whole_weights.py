"""Policies of which all weights are trained: the control of low-rank adapters."""

from functools import partial

import numpy as np
import pytest
import torch

from rlinf.config import ConfigError
from rlinf.engines.checkpoint import load_training_state, save_actor
from rlinf.engines.fsdp import gather_trainable, load_trainable
from rlinf.models import PolicyInputs
from rlinf.models.whole_weights import WEIGHTS_FILE
from tests.small_policy import PPO, make_learner, make_rollouts, read_policy
from transformers_openvla_oft import CheckpointError

_read = partial(read_policy, is_lora=False)


def _inputs(rollouts) -> PolicyInputs:
    return PolicyInputs(torch.from_numpy(np.asarray(rollouts.frames_SNHWC[:4])), rollouts.languages * 4)


def _logits(policy, rollouts) -> torch.Tensor:
    with torch.no_grad():
        return policy.action_logits(_inputs(rollouts), torch.from_numpy(rollouts.bins_SCA[:4]).flatten(1))


@pytest.mark.parametrize("name", ["small_policy", "autoregressive_policy"])
def test_it_starts_as_the_base_model_and_trains_every_part(request, name):
    checkpoint = request.getfixturevalue(name)
    policy = _read(checkpoint)
    rollouts = make_rollouts(num_actions=policy.chunk_shape[0])
    start = _logits(policy, rollouts)
    torch.testing.assert_close(start, _logits(read_policy(checkpoint), rollouts))  # whose adapter is fresh
    count = sum(parameter.numel() for parameter in policy.module.parameters())
    parts = policy.trainable_modules()
    assert sum(p.numel() for part in parts.values() for p in part) == count
    assert all(parts.values()), "towers, language model and output layer"
    before = {name: value.copy() for name, value in gather_trainable(policy.module).items()}
    make_learner(policy, lr=0.01).update(rollouts, seed=0)
    moved = {name for name, value in gather_trainable(policy.module).items() if not np.array_equal(value, before[name])}
    for part in ("vision_backbone", "projector", "language_model.model.layers", "lm_head"):
        assert any(part in name for name in moved), part
    bins_BT = torch.from_numpy(rollouts.bins_SCA[:4]).flatten(1)
    torch.testing.assert_close(policy.base_logits(_inputs(rollouts), bins_BT), start)
    assert not torch.allclose(_logits(policy, rollouts), start), "and the policy is itself again"


@pytest.mark.parametrize("critic", [False, True], ids=["grpo", "ppo"])
def test_its_checkpoint_goes_on_and_acts(small_policy, tmp_path, critic):
    rollouts = make_rollouts(critic=critic)
    algorithm = PPO if critic else None
    learner = make_learner(_read(small_policy, critic=critic), algorithm=algorithm)
    learner.update(rollouts, seed=0)
    save_actor(learner, tmp_path, epoch=1)
    assert (tmp_path / WEIGHTS_FILE).is_file()
    assert (tmp_path / "value_head.safetensors").is_file() == critic
    resumed = make_learner(_read(small_policy, lora_path=tmp_path, critic=critic), algorithm=algorithm)
    assert load_training_state(resumed, tmp_path) == 1
    for one in (learner, resumed):
        one.update(rollouts, seed=1)
    weights, again = (gather_trainable(one.policy.module) for one in (learner, resumed))
    for name, value in weights.items():
        np.testing.assert_array_equal(again[name], value, err_msg=name)
    acting = _read(small_policy, critic=critic, trains=False, dtype=torch.bfloat16)
    load_trainable(acting.module, weights)
    towards = _logits(learner.policy, rollouts)
    torch.testing.assert_close(_logits(acting, rollouts), towards, atol=0.05, rtol=0.05)
    assert acting.module.dtype == torch.bfloat16


def test_weights_that_do_not_fit_are_refused(small_policy, tmp_path):
    with pytest.raises(ConfigError, match=r"expected model\.pt"):
        _read(small_policy, lora_path=tmp_path)
    torch.save({"lm_head.weight": torch.zeros(2)}, tmp_path / WEIGHTS_FILE)
    with pytest.raises(CheckpointError, match="missing"):
        _read(small_policy, lora_path=tmp_path)
    (tmp_path / WEIGHTS_FILE).write_bytes(b"cut off")
    with pytest.raises(CheckpointError, match="truncated or corrupt"):
        _read(small_policy, lora_path=tmp_path)
