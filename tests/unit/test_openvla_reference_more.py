"""The rest of the reference cases: every position, the whole vocabulary, replay, both halves of an actor's batch."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from transformers_openvla_oft import (
    ActionTokenMap,
    OpenVLAConfig,
    OpenVLAForActionPrediction,
    ValueHead,
    action_entropy,
    action_log_probs,
)
from transformers_openvla_oft.model.language import extended, hidden_states
from transformers_openvla_oft.model.layouts import oft_hidden_states, oft_logits

REPOSITORY = Path(__file__).resolve().parents[2]
REFERENCE = Path(os.environ.get("OPENVLA_REFERENCE", REPOSITORY.parent / "shared" / "fixtures" / "openvla_reference"))
pytestmark = pytest.mark.skipif(not REFERENCE.is_dir(), reason="set OPENVLA_REFERENCE to the reference fixtures")
TEMPERATURE, ATOL = 1.6, 1e-4
CHECKPOINTS = {"fused": "tiny_openvla_oft_fused", "single": "tiny_openvla_oft_single"}
UNNORM_KEYS = {"fused": "libero_spatial", "single": "libero_goal"}
CASES = [("fused", "padded"), ("fused", "nopad"), ("single", "padded")]
PROMPT_END = 29871


def load_model(kind, **options):
    folder = REFERENCE / CHECKPOINTS[kind]
    model = OpenVLAForActionPrediction.from_pretrained(folder, dtype=torch.float32, **options)
    state = load_file(folder / "value_head.safetensors")
    model.value_head = ValueHead(state["head_l1.weight"].shape[1], num_outputs=state["head_l3.weight"].shape[0])
    model.value_head.load_state_dict(state)
    return model.eval()


@pytest.fixture(scope="module")
def models():
    return {kind: load_model(kind) for kind in CHECKPOINTS}


@pytest.fixture(scope="module")
def arrays():
    files = {f"{kind}_{part}" for kind in (*CHECKPOINTS, "official") for part in ("inputs", "expected")}
    return {name: np.load(REFERENCE / f"oft_{name}.npz") for name in files}


def inputs_of(arrays, kind, case):
    get = arrays[f"{kind}_inputs"]
    return {
        "input_ids_BL": torch.from_numpy(get[f"{case}/input_ids"]),
        "attention_mask_BL": torch.from_numpy(get[f"{case}/attention_mask"]),
        "pixel_values": torch.from_numpy(get[f"{case}/pixel_values"]).flatten(1, 2),
    }


def assert_close(actual, expected, *, atol=ATOL):
    np.testing.assert_allclose(actual.numpy(), expected, rtol=0, atol=atol)


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
def test_every_position_and_the_whole_vocabulary(models, arrays, kind, case):
    model, expected, inputs = models[kind], arrays[f"{kind}_expected"], inputs_of(arrays, kind, case)
    output, first_BSH, last_BSH = caught(model, inputs)
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


@pytest.mark.parametrize(("kind", "case"), CASES)
@torch.no_grad()
def test_top_k_of_the_published_rollout(models, arrays, kind, case):
    """Only the fifty likeliest bins take part; not an option here (the documents switch it off), but its arithmetic
    checks the order of the logits."""
    logits_BTV = models[kind](**inputs_of(arrays, kind, case)).logits_BTV / TEMPERATURE
    kept = logits_BTV.topk(50, dim=-1).values
    assert_close(
        kept[..., 0] - kept.logsumexp(-1), arrays[f"{kind}_expected"][f"{case}/rollout_logprobs_greedy_topk50"]
    )


@pytest.mark.parametrize(("kind", "case"), CASES)
@torch.no_grad()
def test_replay_reads_the_same_logits_and_actions(models, arrays, kind, case):
    model, expected = models[kind], arrays[f"{kind}_expected"]
    logits_BTV = model(**inputs_of(arrays, kind, case)).logits_BTV
    assert_close(logits_BTV, expected[f"{case}/bc_custom_forward_processed_logits"])
    token_map = ActionTokenMap.from_config(model.config, UNNORM_KEYS[kind])
    bins_BT = logits_BTV.argmax(-1)
    normalised = token_map.bins_to_actions(bins_BT).view(-1, 7)
    assert_close(normalised, expected[f"{case}/bc_custom_forward_normalized_actions"], atol=1e-7)
    assert_close(
        token_map.dataset_actions(bins_BT).flatten(1), expected[f"{case}/bc_custom_forward_actions"], atol=1e-7
    )


@torch.no_grad()
def test_both_halves_of_an_actors_batch(models, arrays):
    """Own experience and the demonstrations of replay in one batch, as the published actor runs them."""
    model, expected = models["fused"], arrays["fused_expected"]
    own, replayed = inputs_of(arrays, "fused", "padded"), inputs_of(arrays, "fused", "bc")
    output = model(**{name: torch.cat([own[name], replayed[name]]) for name in own})
    num = len(own["input_ids_BL"])
    token_map = ActionTokenMap.from_config(model.config, "libero_spatial")
    bins_BT = token_map.tokens_to_bins(torch.from_numpy(arrays["fused_inputs"]["padded/action_tokens"]))
    mine, theirs = output.logits_BTV[:num], output.logits_BTV[num:]
    assert_close(action_log_probs(mine, bins_BT, temperature=TEMPERATURE), expected["actor_forward/logprobs"])
    assert_close(action_entropy(mine, temperature=TEMPERATURE), expected["actor_forward/entropy"])
    assert_close(output.values_BO[:num], expected["actor_forward/values"])
    assert_close(theirs, expected["actor_forward/bc_processed_logits"])
    assert_close(theirs, expected["actor_forward/intermediate_logits_bins"])
    full_BTW = oft_logits(model, output.hidden_BTH[num:])
    assert full_BTW.shape == tuple(expected["actor_forward/bc_raw_logits_shape"])
    assert_close(full_BTW.logsumexp(-1), expected["actor_forward/bc_raw_logits_logsumexp"])


@torch.no_grad()
def test_two_pictures_scored(arrays):
    model, expected = load_model("fused", num_images_in_input=2), arrays["fused_expected"]
    inputs = inputs_of(arrays, "fused", "padded")
    wrist = torch.from_numpy(arrays["fused_inputs"]["two_image/wrist_pixel_values"]).flatten(1, 2)
    inputs["pixel_values"] = torch.cat([inputs["pixel_values"], wrist], dim=1)
    output, _, last_BSH = caught(model, inputs)
    assert last_BSH.shape[1] == int(expected["two_image/seq_len"])
    token_map = ActionTokenMap.from_config(model.config, "libero_spatial")
    bins_BT = token_map.tokens_to_bins(torch.from_numpy(arrays["fused_inputs"]["padded/action_tokens"]))
    log_probs_BT = action_log_probs(output.logits_BTV, bins_BT, temperature=TEMPERATURE)
    assert_close(log_probs_BT, expected["two_image/custom_forward_logprobs"])
    entropy_BT = action_entropy(output.logits_BTV, temperature=TEMPERATURE)
    assert_close(entropy_BT, expected["two_image/custom_forward_entropy"])
    greedy = token_map.dataset_actions(output.logits_BTV.argmax(-1)).flatten(1)
    assert_close(greedy, expected["two_image/greedy_actions"], atol=1e-7)


@torch.no_grad()
def test_the_oft_layout_takes_the_arg_max_over_the_whole_vocabulary(models, arrays):
    get, expected, model = arrays["official_inputs"], arrays["official_expected"], models["fused"]
    ids = torch.cat([torch.from_numpy(get["input_ids"]), torch.tensor([[PROMPT_END]])], dim=1)
    inputs = {
        "input_ids_BL": ids,
        "attention_mask_BL": torch.ones_like(ids),
        "pixel_values": torch.from_numpy(get["pixel_values"]),
    }
    logits_BTW = oft_logits(model, oft_hidden_states(model, **inputs))[:, :-1]
    assert_close(logits_BTW[..., 31744:32000].reshape(-1, 256), expected["predict_action/logits_bins"].reshape(-1, 256))
    tokens = logits_BTW.argmax(-1)
    wanted = expected["predict_action/tokens_full_vocab_argmax"].reshape(tokens.shape)
    assert np.array_equal(tokens.numpy(), wanted)
    # The layouts are not interchangeable.
    other = (
        model(**inputs).logits_BTV.argmax(-1)
        + OpenVLAConfig.from_pretrained(REFERENCE / CHECKPOINTS["fused"]).action_token_begin
    )
    assert (other.numpy() != wanted).sum() > 10
