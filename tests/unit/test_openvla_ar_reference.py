"""Our autoregressive OpenVLA against outputs of the published code on a tiny checkpoint."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from transformers_openvla_oft import (
    ActionTokenMap,
    OpenVLAConfig,
    OpenVLAForAutoregressivePrediction,
    ValueHead,
    action_entropy,
    action_log_probs,
)

REPOSITORY = Path(__file__).resolve().parents[2]
REFERENCE = Path(os.environ.get("OPENVLA_REFERENCE", REPOSITORY.parent / "shared" / "fixtures" / "openvla_reference"))
pytestmark = pytest.mark.skipif(not REFERENCE.is_dir(), reason="set OPENVLA_REFERENCE to the reference fixtures")

CHECKPOINT = REFERENCE / "tiny_openvla_oft_fused"
TEMPERATURE = 1.6
ATOL = 1e-4  # float32 round-off of two orders of summation; the logits are of size 10


@pytest.fixture(scope="module")
def model():
    config = OpenVLAConfig.from_pretrained(CHECKPOINT, num_actions_chunk=1)
    model = OpenVLAForAutoregressivePrediction.from_pretrained(CHECKPOINT, config=config, dtype=torch.float32)
    head = ValueHead(config.llama.hidden_size)
    head.load_state_dict(load_file(CHECKPOINT / "value_head.safetensors"))
    model.value_head = head
    return model.eval()


@pytest.fixture(scope="module")
def inputs():
    arrays = np.load(REFERENCE / "openvla_ar_inputs.npz")
    images = np.load(REFERENCE / "oft_fused_inputs.npz")["padded/pixel_values"]
    return {
        "input_ids_BL": torch.from_numpy(arrays["input_ids"]),
        "attention_mask_BL": torch.from_numpy(arrays["attention_mask"]),
        "pixel_values": torch.from_numpy(images).flatten(1, 2),
    }


@pytest.fixture(scope="module")
def expected():
    return np.load(REFERENCE / "openvla_ar_expected.npz")


def _assert_close(actual, wanted, *, atol=ATOL):
    np.testing.assert_allclose(actual.detach().numpy(), wanted, rtol=0, atol=atol)


@torch.no_grad()
def test_greedy_decoding_gives_the_published_tokens(model, inputs, expected):
    actions = ActionTokenMap.from_config(model.config, "libero_spatial")
    output = model(**inputs)
    assert np.array_equal(actions.bins_to_tokens(output.bins_BT).numpy(), expected["generate_tokens"])
    _assert_close(output.logits_BTV, expected["generate_scores_bins"])
    _assert_close(output.hidden_BTH, expected["generate_last_hidden"])
    _assert_close(output.value_feature_BH, expected["generate_last_hidden"][:, 0])
    _assert_close(action_log_probs(output.logits_BTV, output.bins_BT, temperature=1.0), expected["generate_logprobs"])
    _assert_close(actions.dataset_actions(output.bins_BT).flatten(1), expected["generate_actions"], atol=1e-7)


@pytest.mark.parametrize("case", ["given", "greedy"])
@torch.no_grad()
def test_teacher_forcing_gives_the_published_numbers(model, inputs, expected, case):
    actions = ActionTokenMap.from_config(model.config, "libero_spatial")
    given = np.load(REFERENCE / "openvla_ar_inputs.npz")["action_tokens"]
    tokens = {"given": given, "greedy": expected["generate_tokens"]}[case]
    bins_BT = actions.tokens_to_bins(torch.from_numpy(tokens))
    output = model(**inputs, bins_BT=bins_BT)
    _assert_close(output.logits_BTV, expected[f"{case}/custom_forward_processed_logits"])
    log_probs_BT = action_log_probs(output.logits_BTV, bins_BT, temperature=TEMPERATURE)
    _assert_close(log_probs_BT, expected[f"{case}/custom_forward_logprobs"])
    entropy_BT = action_entropy(output.logits_BTV, temperature=TEMPERATURE)
    _assert_close(entropy_BT, expected[f"{case}/custom_forward_entropy"])
    _assert_close(output.values_BO, expected[f"{case}/custom_forward_values"])
