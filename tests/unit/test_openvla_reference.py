"""Our OpenVLA-OFT against outputs of the published code on tiny checkpoints (fixtures/openvla_reference)."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from transformers_openvla_oft import (
    ActionTokenMap,
    OpenVLAConfig,
    OpenVLAForActionPrediction,
    PrismaticProcessor,
    ValueHead,
    action_entropy,
    action_log_probs,
)

REPOSITORY = Path(__file__).resolve().parents[2]
REFERENCE = Path(os.environ.get("OPENVLA_REFERENCE", REPOSITORY.parent / "shared" / "fixtures" / "openvla_reference"))
pytestmark = pytest.mark.skipif(not REFERENCE.is_dir(), reason="set OPENVLA_REFERENCE to the reference fixtures")

TEMPERATURE = 1.6
LOGITS_ATOL = 1e-4  # float32 round-off of two orders of summation; the logits are of size 10
CHECKPOINTS = {"fused": "tiny_openvla_oft_fused", "single": "tiny_openvla_oft_single"}
CASES = [("fused", "padded"), ("fused", "nopad"), ("single", "padded")]
UNNORM_KEYS = {"fused": "libero_spatial", "single": "libero_goal"}


@pytest.fixture(scope="module")
def models():
    return {kind: load_model(kind) for kind in CHECKPOINTS}


@pytest.fixture(scope="module")
def arrays():
    return {
        (kind, part): np.load(REFERENCE / f"oft_{kind}_{part}.npz")
        for kind in CHECKPOINTS
        for part in ("inputs", "expected")
    }


def load_model(kind):
    model = OpenVLAForActionPrediction.from_pretrained(REFERENCE / CHECKPOINTS[kind], dtype=torch.float32)
    return model.eval()


def load_value_head(kind):
    state = load_file(REFERENCE / CHECKPOINTS[kind] / "value_head.safetensors")
    head = ValueHead(state["head_l1.weight"].shape[1], num_outputs=state["head_l3.weight"].shape[0])
    head.load_state_dict(state)
    return head


def inputs_of(arrays, kind, case):
    """The case's forward arguments; the published arrays have one more axis, of length one, before the channels."""
    get = arrays[kind, "inputs"]
    return {
        "input_ids_BL": torch.from_numpy(get[f"{case}/input_ids"]),
        "attention_mask_BL": torch.from_numpy(get[f"{case}/attention_mask"]),
        "pixel_values": torch.from_numpy(get[f"{case}/pixel_values"]).flatten(1, 2),
    }


def assert_close(actual, expected, *, atol=LOGITS_ATOL):
    np.testing.assert_allclose(actual.detach().numpy(), expected, rtol=0, atol=atol)


@pytest.mark.parametrize(("kind", "case"), CASES)
@torch.no_grad()
def test_forward_gives_the_published_numbers(models, arrays, kind, case):
    model, expected = models[kind], arrays[kind, "expected"]
    inputs = inputs_of(arrays, kind, case)
    features = model.vision_backbone(inputs["pixel_values"])
    assert_close(features, expected[f"{case}/patch_features"], atol=2e-5)
    assert_close(model.projector(features), expected[f"{case}/projected_patches"], atol=2e-5)

    output = model(**inputs)
    assert output.logits_BTV.dtype == torch.float32
    assert_close(output.hidden_BTH, expected[f"{case}/last_hidden_action"])
    assert_close(output.logits_BTV, expected[f"{case}/logits_action_bins"])
    assert_close(output.logits_BTV, expected[f"{case}/custom_forward_processed_logits"])
    assert_close(load_value_head(kind)(output.value_feature_BH), expected[f"{case}/values_a0"])


@pytest.mark.parametrize(("kind", "case"), CASES)
@torch.no_grad()
def test_log_probabilities_entropy_and_greedy_actions(models, arrays, kind, case):
    model, expected = models[kind], arrays[kind, "expected"]
    token_map = ActionTokenMap.from_config(model.config, UNNORM_KEYS[kind])
    logits_BTV = model(**inputs_of(arrays, kind, case)).logits_BTV

    bins_BT = token_map.tokens_to_bins(torch.from_numpy(arrays[kind, "inputs"][f"{case}/action_tokens"]))
    log_probs_BT = action_log_probs(logits_BTV, bins_BT, temperature=TEMPERATURE)
    assert_close(log_probs_BT, expected[f"{case}/custom_forward_logprobs"])
    assert_close(action_entropy(logits_BTV, temperature=TEMPERATURE), expected[f"{case}/custom_forward_entropy"])

    greedy_BT = logits_BTV.argmax(dim=-1)
    assert np.array_equal(token_map.bins_to_tokens(greedy_BT).numpy(), expected[f"{case}/greedy_tokens"])
    greedy_log_probs_BT = action_log_probs(logits_BTV, greedy_BT, temperature=TEMPERATURE)
    assert_close(greedy_log_probs_BT, expected[f"{case}/rollout_logprobs_greedy"])
    assert_close(token_map.dataset_actions(greedy_BT).flatten(1), expected[f"{case}/greedy_actions"], atol=1e-7)


def test_gradients_have_the_published_norms(arrays):
    model, head = load_model("fused"), load_value_head("fused")
    token_map = ActionTokenMap.from_config(model.config, "libero_spatial")
    bins_BT = token_map.tokens_to_bins(torch.from_numpy(arrays["fused", "inputs"]["padded/action_tokens"]))
    output = model(**inputs_of(arrays, "fused", "padded"))
    loss = (
        action_log_probs(output.logits_BTV, bins_BT, temperature=TEMPERATURE).mean()
        + 0.1 * action_entropy(output.logits_BTV, temperature=TEMPERATURE).mean()
        + head(output.value_feature_BH).mean()
        + 0.01 * output.logits_BTV.pow(2).mean()
    )
    assert loss.item() == pytest.approx(float(arrays["fused", "expected"]["padded/grad_loss"]), abs=1e-4)
    loss.backward()

    expected = json.loads((REFERENCE / "oft_padded_grad_norms.json").read_text())
    modules = [("", model), ("value_head.", head)]
    norms = {
        prefix + name: 0.0 if parameter.grad is None else parameter.grad.norm().item()
        for prefix, module in modules
        for name, parameter in module.named_parameters()
    }
    compared = 0
    for name, norm in expected.items():
        if norm is None:  # weights that nothing reads
            assert norms[name] == 0, name
            continue
        assert norms[name] == pytest.approx(norm, rel=1e-3), name
        compared += 1
    assert compared > 100


@torch.no_grad()
def test_two_pictures(arrays):
    config = OpenVLAConfig.from_pretrained(REFERENCE / CHECKPOINTS["fused"])
    config.num_images_in_input = 2
    model = OpenVLAForActionPrediction.from_pretrained(
        REFERENCE / CHECKPOINTS["fused"], config=config, dtype=torch.float32
    ).eval()
    inputs, expected = inputs_of(arrays, "fused", "padded"), arrays["fused", "expected"]
    wrist = torch.from_numpy(arrays["fused", "inputs"]["two_image/wrist_pixel_values"]).flatten(1, 2)
    inputs["pixel_values"] = torch.cat([inputs["pixel_values"], wrist], dim=1)

    output = model(**inputs)
    assert_close(output.logits_BTV, expected["two_image/logits_action_bins"])
    assert_close(load_value_head("fused")(output.value_feature_BH), expected["two_image/custom_forward_values"])
    token_map = ActionTokenMap.from_config(config, "libero_spatial")
    greedy_tokens = token_map.bins_to_tokens(output.logits_BTV.argmax(dim=-1))
    assert np.array_equal(greedy_tokens.numpy(), expected["two_image/greedy_tokens"])


@torch.no_grad()
def test_published_lora_adapter(arrays, tmp_path):
    """Published adapters carry one tensor more than the adapter needs, the frozen weight of `lm_head`."""
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    for file in (REFERENCE / "tiny_lora_r4").iterdir():
        (adapter / file.name).write_bytes(file.read_bytes())
    base = load_model("fused")
    (extra_name,) = json.loads((adapter / "extra_keys_written_by_original.json").read_text())
    state = load_file(adapter / "adapter_model.safetensors")
    extra = {extra_name: base.language_model.lm_head.weight.detach().clone()}
    save_file({**state, **extra}, adapter / "adapter_model.safetensors")
    model = PeftModel.from_pretrained(base, str(adapter)).eval()
    loaded = {name.replace(".default", "") for name, _ in model.named_parameters() if "lora_" in name}
    assert loaded == set(state)

    output = model(**inputs_of(arrays, "fused", "padded"))
    expected = arrays["fused", "expected"]
    assert_close(output.logits_BTV, expected["lora_r4/custom_forward_processed_logits"])
    assert_close(load_value_head("fused")(output.value_feature_BH), expected["lora_r4/custom_forward_values"])
    token_map = ActionTokenMap.from_config(base.config, "libero_spatial")
    bins_BT = token_map.tokens_to_bins(torch.from_numpy(arrays["fused", "inputs"]["padded/action_tokens"]))
    log_probs_BT = action_log_probs(output.logits_BTV, bins_BT, temperature=TEMPERATURE)
    assert_close(log_probs_BT, expected["lora_r4/custom_forward_logprobs"])
    entropy_BT = action_entropy(output.logits_BTV, temperature=TEMPERATURE)
    assert_close(entropy_BT, expected["lora_r4/custom_forward_entropy"])


def test_processor_builds_the_published_inputs(arrays):
    get = arrays["fused", "inputs"]
    tasks = [str(task) for task in get["task_descriptions"]]
    processor = PrismaticProcessor.from_pretrained(REFERENCE / CHECKPOINTS["fused"], max_prompt_length=40)
    assert processor.prompt_end_token_id == 29871
    batch = processor(torch.from_numpy(get["raw_full_image"])[:, None], tasks)
    assert np.array_equal(batch.input_ids_BL.numpy(), get["padded/input_ids"])
    assert np.array_equal(batch.attention_mask_BL.numpy(), get["padded/attention_mask"])
    assert_close(batch.pixel_values, get["padded/pixel_values"][:, 0], atol=1e-6)

    wrist = processor.pixel_values(torch.from_numpy(get["raw_wrist_image"])[:, None])
    assert_close(wrist, get["two_image/wrist_pixel_values"][:, 0], atol=1e-6)

    single = PrismaticProcessor.from_pretrained(REFERENCE / CHECKPOINTS["single"])
    pixel_values = single.pixel_values(torch.from_numpy(get["raw_full_image"])[:, None])
    assert_close(pixel_values, arrays["single", "inputs"]["padded/pixel_values"][:, 0], atol=1e-6)


def test_action_maps(arrays):
    """Encoding follows np.digitize to the last bit, or the nearest centre; decoding clips into 255 centres."""
    get, expected = arrays["fused", "inputs"], arrays["fused", "expected"]
    config = OpenVLAConfig.from_pretrained(REFERENCE / CHECKPOINTS["fused"])
    token_map = ActionTokenMap.from_config(config, "libero_spatial")

    digitized = token_map.bins_to_tokens(token_map.actions_to_bins(torch.from_numpy(get["maps/digitize_in"])))
    assert np.array_equal(digitized.numpy(), expected["maps/digitize_tokens"])

    normalized_BCA = token_map.normalize(torch.from_numpy(get["maps/actions"]))
    nearest_BT = token_map.actions_to_nearest_bins(normalized_BCA).flatten(1)
    assert np.array_equal(token_map.bins_to_tokens(nearest_BT).numpy(), expected["maps/tokens_from_actions"])

    all_tokens = torch.from_numpy(expected["maps/all_tokens"])
    normalized = token_map.bins_to_actions(token_map.tokens_to_bins(all_tokens))
    assert np.array_equal(normalized.numpy(), expected["maps/all_tokens_normalized"])
    unnormalized = token_map.unnormalize(normalized[:, None].expand(-1, config.action_dim))
    np.testing.assert_allclose(unnormalized.numpy(), expected["maps/all_tokens_unnormalized"], rtol=0, atol=1e-12)
