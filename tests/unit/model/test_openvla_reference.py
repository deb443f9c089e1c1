"""OpenVLA-OFT and OpenVLA against outputs of the published code on tiny checkpoints."""

import json

import numpy as np
import pytest
import torch

from tests.openvla_reference import (
    CHECKPOINTS,
    REFERENCE,
    UNNORM_KEYS,
    assert_close,
    inputs_of,
    load_model,
    needs_reference,
)
from transformers_openvla_oft import (
    ActionTokenMap,
    OpenVLAConfig,
    OpenVLAForAutoregressivePrediction,
    PrismaticProcessor,
    action_entropy,
    action_log_probs,
)
from transformers_openvla_oft.model.language import extended, hidden_states
from transformers_openvla_oft.model.layouts import oft_logits

pytestmark = needs_reference

TEMPERATURE = 1.6
CASES = [("fused", "padded"), ("fused", "nopad"), ("single", "padded")]


@pytest.fixture(scope="module")
def models():
    return {kind: load_model(kind) for kind in CHECKPOINTS}


@pytest.fixture(scope="module")
def arrays():
    names = {**{kind: f"oft_{kind}" for kind in (*CHECKPOINTS, "official")}, "openvla_ar": "openvla_ar"}
    files = {f"{key}_{part}": f"{name}_{part}" for key, name in names.items() for part in ("inputs", "expected")}
    return {key: np.load(REFERENCE / f"{file}.npz") for key, file in files.items()}


def two_image_inputs(arrays):
    inputs = inputs_of(arrays["fused_inputs"], "padded")
    wrist = torch.from_numpy(arrays["fused_inputs"]["two_image/wrist_pixel_values"]).flatten(1, 2)
    return {**inputs, "pixel_values": torch.cat([inputs["pixel_values"], wrist], dim=1)}


@pytest.mark.parametrize(("kind", "case"), CASES)
@torch.no_grad()
def test_log_probabilities_entropy_and_greedy_actions(models, arrays, kind, case):
    model, expected = models[kind], arrays[f"{kind}_expected"]
    token_map = ActionTokenMap.from_config(model.config, UNNORM_KEYS[kind])
    logits_BTV = model(**inputs_of(arrays[f"{kind}_inputs"], case)).logits_BTV

    bins_BT = token_map.tokens_to_bins(torch.from_numpy(arrays[f"{kind}_inputs"][f"{case}/action_tokens"]))
    log_probs_BT = action_log_probs(logits_BTV, bins_BT, temperature=TEMPERATURE)
    assert_close(log_probs_BT, expected[f"{case}/custom_forward_logprobs"])
    assert_close(action_entropy(logits_BTV, temperature=TEMPERATURE), expected[f"{case}/custom_forward_entropy"])

    greedy_BT = logits_BTV.argmax(dim=-1)
    assert np.array_equal(token_map.bins_to_tokens(greedy_BT).numpy(), expected[f"{case}/greedy_tokens"])
    greedy_log_probs_BT = action_log_probs(logits_BTV, greedy_BT, temperature=TEMPERATURE)
    assert_close(greedy_log_probs_BT, expected[f"{case}/rollout_logprobs_greedy"])
    assert_close(token_map.dataset_actions(greedy_BT).flatten(1), expected[f"{case}/greedy_actions"], atol=1e-7)


def test_gradients_have_the_published_norms(arrays):
    model = load_model("fused")
    token_map = ActionTokenMap.from_config(model.config, "libero_spatial")
    bins_BT = token_map.tokens_to_bins(torch.from_numpy(arrays["fused_inputs"]["padded/action_tokens"]))
    output = model(**inputs_of(arrays["fused_inputs"], "padded"))
    loss = (
        action_log_probs(output.logits_BTV, bins_BT, temperature=TEMPERATURE).mean()
        + 0.1 * action_entropy(output.logits_BTV, temperature=TEMPERATURE).mean()
        + output.values_BO.mean()
        + 0.01 * output.logits_BTV.pow(2).mean()
    )
    assert loss.item() == pytest.approx(float(arrays["fused_expected"]["padded/grad_loss"]), abs=1e-4)
    loss.backward()

    expected = json.loads((REFERENCE / "oft_padded_grad_norms.json").read_text())
    norms = {
        name: 0.0 if parameter.grad is None else parameter.grad.norm().item()
        for name, parameter in model.named_parameters()
    }
    compared = 0
    for name, norm in expected.items():
        if norm is None:  # weights that nothing reads
            assert norms[name] == 0, name
            continue
        assert norms[name] == pytest.approx(norm, rel=1e-3), name
        compared += 1
    assert compared > 100


def test_processor_builds_the_published_inputs(arrays):
    get = arrays["fused_inputs"]
    tasks = [str(task) for task in get["task_descriptions"]]
    processor = PrismaticProcessor.from_pretrained(CHECKPOINTS["fused"], max_prompt_length=40)
    assert processor.prompt_end_token_id == 29871
    batch = processor(torch.from_numpy(get["raw_full_image"])[:, None], tasks)
    assert np.array_equal(batch.input_ids_BL.numpy(), get["padded/input_ids"])
    assert np.array_equal(batch.attention_mask_BL.numpy(), get["padded/attention_mask"])
    assert_close(batch.pixel_values, get["padded/pixel_values"][:, 0], atol=1e-6)

    wrist = processor.pixel_values(torch.from_numpy(get["raw_wrist_image"])[:, None])
    assert_close(wrist, get["two_image/wrist_pixel_values"][:, 0], atol=1e-6)

    single = PrismaticProcessor.from_pretrained(CHECKPOINTS["single"])
    pixel_values = single.pixel_values(torch.from_numpy(get["raw_full_image"])[:, None])
    assert_close(pixel_values, arrays["single_inputs"]["padded/pixel_values"][:, 0], atol=1e-6)


def test_action_maps(arrays):
    """Encoding follows np.digitize to the last bit, or the nearest centre; decoding clips into 255 centres."""
    get, expected = arrays["fused_inputs"], arrays["fused_expected"]
    config = OpenVLAConfig.from_pretrained(CHECKPOINTS["fused"])
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


def caught(model, inputs):
    """Output, and hidden states of every position: after the first layer, and after the final norm."""
    output, T = model(**inputs), model.config.num_action_tokens
    llama = model.language_model.model
    prefix_BSH, mask_BS = model.embed_prefix(*inputs.values(), padded=None)
    embeds_BSH = torch.cat([prefix_BSH, prefix_BSH.new_zeros(len(prefix_BSH), T, prefix_BSH.shape[-1])], dim=1)
    seen = {}
    hook = llama.layers[0].register_forward_hook(lambda *a: seen.update(first=a[2]))
    last_BSH = hidden_states(llama, embeds_BSH, extended(mask_BS, T), causal=False, num_needed=embeds_BSH.shape[1])
    hook.remove()
    return output, seen["first"], last_BSH


@pytest.mark.parametrize(("kind", "case"), CASES)
@torch.no_grad()
def test_patches_every_position_and_the_whole_vocabulary(models, arrays, kind, case):
    model, expected, inputs = models[kind], arrays[f"{kind}_expected"], inputs_of(arrays[f"{kind}_inputs"], case)
    features = model.vision_backbone(inputs["pixel_values"])
    assert_close(features, expected[f"{case}/patch_features"], atol=2e-5)
    assert_close(model.projector(features), expected[f"{case}/projected_patches"], atol=2e-5)
    output, first_BSH, last_BSH = caught(model, inputs)
    assert output.logits_BTV.dtype == torch.float32
    assert_close(output.hidden_BTH, expected[f"{case}/last_hidden_action"])
    assert_close(output.logits_BTV, expected[f"{case}/logits_action_bins"])
    assert_close(output.logits_BTV, expected[f"{case}/custom_forward_processed_logits"])
    assert_close(output.values_BO, expected[f"{case}/values_a0"])
    assert last_BSH.shape[1] == int(expected[f"{case}/seq_len"])
    patches = model.vision_backbone.num_patches
    # At a pad nothing is defined.
    real_BS = torch.cat(
        [
            inputs["attention_mask_BL"][:, :1],
            torch.ones(len(last_BSH), patches),
            inputs["attention_mask_BL"][:, 1:],
            torch.ones(len(last_BSH), 56),
        ],
        dim=1,
    ).bool()
    assert_close(last_BSH[real_BS], expected[f"{case}/last_hidden_all"][real_BS.numpy()])
    assert_close(first_BSH[:, -57:-1], expected[f"{case}/hidden_layer1_action"])
    assert_close(output.hidden_BTH, expected[f"{case}/predict_hidden"])
    assert_close(output.values_BO, expected[f"{case}/custom_forward_values"])

    full_BTW = oft_logits(model, output.hidden_BTH)
    assert_close(full_BTW[:, 0], expected[f"{case}/logits_full_pos0"])
    assert_close(full_BTW.logsumexp(-1), expected[f"{case}/logits_full_logsumexp"])
    assert np.array_equal(full_BTW.argmax(-1).numpy(), expected[f"{case}/logits_full_argmax"])
    # Acting divides the logits of the bins by the temperature.
    assert_close(output.logits_BTV / TEMPERATURE, expected[f"{case}/predict_processed_logits_bins"])


@torch.no_grad()
def test_two_images(arrays):
    model, expected = load_model("fused", num_images_in_input=2), arrays["fused_expected"]
    output, _, last_BSH = caught(model, two_image_inputs(arrays))
    assert last_BSH.shape[1] == int(expected["two_image/seq_len"])
    assert_close(output.logits_BTV, expected["two_image/logits_action_bins"])
    assert_close(output.values_BO, expected["two_image/custom_forward_values"])
    token_map = ActionTokenMap.from_config(model.config, "libero_spatial")
    bins_BT = token_map.tokens_to_bins(torch.from_numpy(arrays["fused_inputs"]["padded/action_tokens"]))
    log_probs_BT = action_log_probs(output.logits_BTV, bins_BT, temperature=TEMPERATURE)
    assert_close(log_probs_BT, expected["two_image/custom_forward_logprobs"])
    entropy_BT = action_entropy(output.logits_BTV, temperature=TEMPERATURE)
    assert_close(entropy_BT, expected["two_image/custom_forward_entropy"])
    greedy_BT = output.logits_BTV.argmax(-1)
    assert np.array_equal(token_map.bins_to_tokens(greedy_BT).numpy(), expected["two_image/greedy_tokens"])
    assert_close(token_map.dataset_actions(greedy_BT).flatten(1), expected["two_image/greedy_actions"], atol=1e-7)


@pytest.fixture(scope="module")
def autoregressive():
    model = load_model("fused", num_actions_chunk=1)
    assert type(model) is OpenVLAForAutoregressivePrediction
    return model


def autoregressive_inputs(arrays):
    given = arrays["openvla_ar_inputs"]
    return {
        "input_ids_BL": torch.from_numpy(given["input_ids"]),
        "attention_mask_BL": torch.from_numpy(given["attention_mask"]),
        "pixel_values": inputs_of(arrays["fused_inputs"], "padded")["pixel_values"],
    }


@torch.no_grad()
def test_greedy_decoding_gives_the_published_tokens(autoregressive, arrays):
    model, expected, inputs = autoregressive, arrays["openvla_ar_expected"], autoregressive_inputs(arrays)
    actions = ActionTokenMap.from_config(model.config, "libero_spatial")
    output = model(**inputs)
    assert np.array_equal(actions.bins_to_tokens(output.bins_BT).numpy(), expected["generate_tokens"])
    assert_close(output.logits_BTV, expected["generate_scores_bins"])
    assert_close(output.hidden_BTH, expected["generate_last_hidden"])
    assert_close(output.value_feature_BH, expected["generate_last_hidden"][:, 0])
    assert_close(action_log_probs(output.logits_BTV, output.bins_BT, temperature=1.0), expected["generate_logprobs"])
    assert_close(actions.dataset_actions(output.bins_BT).flatten(1), expected["generate_actions"], atol=1e-7)


@pytest.mark.parametrize("case", ["given", "greedy"])
@torch.no_grad()
def test_teacher_forcing_gives_the_published_numbers(autoregressive, arrays, case):
    model, expected, inputs = autoregressive, arrays["openvla_ar_expected"], autoregressive_inputs(arrays)
    actions = ActionTokenMap.from_config(model.config, "libero_spatial")
    given = arrays["openvla_ar_inputs"]["action_tokens"]
    tokens = {"given": given, "greedy": expected["generate_tokens"]}[case]
    bins_BT = actions.tokens_to_bins(torch.from_numpy(tokens))
    output = model(**inputs, bins_BT=bins_BT)
    assert_close(output.logits_BTV, expected[f"{case}/custom_forward_processed_logits"])
    log_probs_BT = action_log_probs(output.logits_BTV, bins_BT, temperature=TEMPERATURE)
    assert_close(log_probs_BT, expected[f"{case}/custom_forward_logprobs"])
    entropy_BT = action_entropy(output.logits_BTV, temperature=TEMPERATURE)
    assert_close(entropy_BT, expected[f"{case}/custom_forward_entropy"])
    assert_close(output.values_BO, expected[f"{case}/custom_forward_values"])
