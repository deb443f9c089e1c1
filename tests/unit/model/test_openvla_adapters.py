"""Adapters of policies: published ones, plain PEFT, going on, the 7B's names; and input that must be refused."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import IA3Config, PeftModel
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

from rlinf.config import ConfigError
from rlinf.config.schema import ModelConfig
from rlinf.data import Observation
from rlinf.models import PolicySource, load_policy
from rlinf.models.lora import trainable_parameters
from tests.openvla_reference import REFERENCE, needs_reference
from tests.small_policy import LANGUAGE, read_policy, write_adapter
from transformers_openvla_oft import (
    CheckpointError,
    NonFiniteLogitsError,
    OpenVLAForActionPrediction,
)

WEIGHTS = "adapter_model.safetensors"


@pytest.fixture
def adapter(small_policy, tmp_path):
    """A random adapter, written by a policy."""
    return write_adapter(small_policy, tmp_path / "adapter", seed=0)


def batch_of(policy, num_rows=2):
    images = torch.randint(0, 256, (num_rows, 1, 32, 32, 3), generator=torch.Generator().manual_seed(0))
    return policy.processor(images.to(torch.uint8), (LANGUAGE, "open the drawer")[:num_rows])


@needs_reference
@torch.no_grad()
def test_a_published_adapter_with_its_extra_weight_becomes_a_policy(tmp_path):
    adapter = Path(shutil.copytree(REFERENCE / "tiny_lora_r4", tmp_path / "adapter", copy_function=shutil.copyfile))
    adapter.chmod(0o755)
    (extra,) = json.loads((adapter / "extra_keys_written_by_original.json").read_text())
    tensors = load_file(adapter / WEIGHTS)
    save_file({**tensors, extra: torch.full((4, 4), torch.nan)}, adapter / WEIGHTS)  # not even looked at
    config = ModelConfig(lora_rank=4, lora_path=str(adapter), max_prompt_length=40)
    source = PolicySource(REFERENCE / "tiny_openvla_oft_fused", unnorm_key="libero_spatial", seed=0)
    policy = load_policy(config, source, base_dtype=torch.float32)
    inputs, expected = (np.load(REFERENCE / f"oft_fused_{part}.npz") for part in ("inputs", "expected"))
    images = torch.from_numpy(inputs["raw_full_image"])[:, None]
    observation = Observation(
        images.numpy(), np.zeros((3, 8), np.float32), tuple(map(str, inputs["task_descriptions"]))
    )
    logits_BTV = policy.action_logits(policy.prepare(observation), torch.zeros(3, 56, dtype=torch.int64))
    # From raw images and sentences, with the pads left out that all rows share.
    assert_close(logits_BTV, torch.from_numpy(expected["lora_r4/custom_forward_processed_logits"]), rtol=0, atol=1e-4)


@torch.no_grad()
def test_plain_peft_loads_what_a_policy_saves(small_policy, adapter):
    policy = read_policy(small_policy, lora_path=adapter)
    batch = batch_of(policy)
    plain = PeftModel.from_pretrained(OpenVLAForActionPrediction.from_pretrained(small_policy), str(adapter)).eval()
    inputs = vars(batch)
    assert_close(policy.decode(batch).logits_BTV, plain(**inputs).logits_BTV)
    without = read_policy(small_policy).decode(batch).logits_BTV
    assert (plain(**inputs).logits_BTV - without).abs().max() > 1e-2


def change_config(adapter, **fields):
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


def truncate(adapter):
    (adapter / WEIGHTS).write_bytes((adapter / WEIGHTS).read_bytes()[:3000])


def write_other_kind(adapter):
    IA3Config(target_modules=["q_proj"], feedforward_modules=[]).save_pretrained(str(adapter))


BROKEN = {
    "another rank": (lambda a: change_config(a, r=16), r"has rank 16, but actor\.model\.lora_rank=4"),
    "another model": (lambda a: change_config(a, target_modules=["c_attn"]), "another model's: .*c_attn"),
    "fewer targets": (lambda a: change_config(a, target_modules=["q_proj"]), r"\d+ unexpected: base_model.*"),
    "no weights": (lambda a: (a / WEIGHTS).unlink(), r"there is no adapter_model\.safetensors in|is not an adapter"),
    "truncated": (truncate, r"adapter_model\.safetensors is truncated or corrupt"),
    "no json": (lambda a: (a / "adapter_config.json").write_text("{"), r"adapter_config\.json: no JSON"),
    "another kind": (write_other_kind, "of type .*IA3.*; expected LORA"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_an_adapter_that_does_not_fit_is_refused(small_policy, adapter, what):
    damage, message = BROKEN[what]
    damage(adapter)
    with pytest.raises((CheckpointError, ConfigError), match=message):
        read_policy(small_policy, lora_path=adapter)


@pytest.mark.parametrize("num_actions", [8, 1])
@torch.no_grad()
def test_a_policy_whose_logits_are_not_numbers_refuses_to_act(
    small_policy, autoregressive_policy, adapter, num_actions
):
    folder = small_policy if num_actions == 8 else autoregressive_policy
    policy = read_policy(folder, lora_path=adapter)
    # As an update that diverged leaves them: a file with such weights is not read at all.
    trainable_parameters(policy.module)["base_model.model.language_model.lm_head.lora_B.default.weight"][-80] = (
        torch.nan
    )
    observation = Observation(np.zeros((2, 1, 32, 32, 3), np.uint8), np.zeros((2, 8), np.float32), (LANGUAGE,) * 2)
    uniforms = np.full((2, *policy.chunk_shape), 0.5)
    output = policy.act(policy.prepare(observation), temperature=1.0, uniforms_BCA=uniforms)
    with pytest.raises(NonFiniteLogitsError, match=r"2 of 2 observations") as caught:
        _ = output.env_actions_BCA
    assert str(folder) in str(caught.value)
    assert str(adapter) in str(caught.value)


@torch.no_grad()
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_decoding_token_by_token_refuses_logits_that_are_not_numbers(autoregressive_policy, temperature):
    model = OpenVLAForActionPrediction.from_pretrained(autoregressive_policy)
    batch = batch_of(read_policy(autoregressive_policy))
    inputs = vars(batch)
    draws = {"uniforms_BT": np.full((2, 7), 0.5), "temperature": temperature}
    model(**inputs, **draws)
    model.language_model.lm_head.weight[-80] = torch.nan
    with pytest.raises(NonFiniteLogitsError, match=r"2 of 2 observations"):
        model(**inputs, **draws)
    unchecked = model(**inputs, **draws, check_finite=False)
    assert not unchecked.logits_BTV.isfinite().all()


def test_pictures_and_prompts_of_the_wrong_form_are_refused(small_policy):
    policy = read_policy(small_policy)
    batch = batch_of(policy)

    def decode(**changed):
        return policy.decode(replace(batch, **changed))

    with pytest.raises(ValueError, match=r"\(batch, 6, 32, 32\).*\(2, 6, 16, 16\)"):
        decode(pixel_values=batch.pixel_values[..., :16, :16])
    with pytest.raises(ValueError, match=r"\(batch, 6, 32, 32\).*\(2, 1, 6, 32, 32\)"):
        decode(pixel_values=batch.pixel_values[:, None])
    with pytest.raises(ValueError, match=r"uint8.*torch\.float32"):
        policy.processor.resize(torch.zeros(2, 1, 64, 64, 3))
    with pytest.raises(ValueError, match=r"\(2, 64, 64, 3\)"):
        policy.processor.resize(torch.zeros(2, 64, 64, 3, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"must be square, given 64 x 48 pixels: .*stretched to 32 x 32"):
        policy.processor(torch.zeros(2, 1, 64, 48, 3, dtype=torch.uint8), (LANGUAGE,) * 2)
    for side in (1, 7):
        with pytest.raises(ValueError, match=rf"{side} x {side} pixels are too small .* at least 8 pixels a side"):
            policy.processor.resize(torch.zeros(2, 1, side, side, 3, dtype=torch.uint8))
    assert policy.processor.resize(torch.zeros(2, 1, 8, 8, 3, dtype=torch.uint8)).shape == (2, 1, 32, 32, 3)
