"""Training in OpenVLA-OFT's own layout, and its L1 head, against the published code's numbers (float32, CPU)."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from openvla_oft.data.batches import Batch
from openvla_oft.data.statistics import normalised_proprio, proprio_statistics
from openvla_oft.model import checkpoints
from openvla_oft.model.learner import Learner
from openvla_oft.train.objectives import OftTokenObjective
from tests.openvla_reference import REFERENCE, needs_reference
from tests.unit.finetuning.sft_runs import logged, run
from transformers_openvla_oft.model.action_tokens import ActionTokenMap
from transformers_openvla_oft.model.configuration import OpenVLAConfig
from transformers_openvla_oft.model.heads import L1ActionHead, ProprioProjector
from transformers_openvla_oft.model.layouts import end_token, oft_hidden_states, oft_logits
from transformers_openvla_oft.model.modeling import OpenVLAForActionPrediction

FUSED = REFERENCE / "tiny_openvla_oft_fused"
IGNORED, PAD, PROMPT_END = -100, 32000, 29871


@pytest.fixture(scope="module")
def model():
    return checkpoints.load_for_training(FUSED)[0].eval()


@pytest.fixture(scope="module")
def arrays():
    return {**np.load(REFERENCE / "oft_official_inputs.npz"), **np.load(REFERENCE / "oft_official_expected.npz")}


def left_padded(prompts):
    """Prompts as our processor gives them: BOS, pads, the rest."""
    length = max(map(len, prompts))
    ids = torch.full((len(prompts), length), PAD)
    for row, prompt in zip(ids, prompts, strict=True):
        row[0], row[length - len(prompt) + 1 :] = prompt[0], prompt[1:]
    return ids, (ids != PAD).long()


@needs_reference
def test_loss_of_supervised_training(model, arrays):
    labels = torch.from_numpy(arrays["sft_labels"])
    prompts = [
        ids[label == IGNORED] for ids, label in zip(torch.from_numpy(arrays["sft_input_ids"]), labels, strict=True)
    ]
    prompts = [prompt[prompt != PAD] for prompt in prompts]
    tokens = torch.stack([label[(label != IGNORED) & (label != end_token(model))] for label in labels])
    token_map = ActionTokenMap.from_config(model.config, "libero_spatial")
    bins = token_map.tokens_to_bins(tokens)
    ids, mask = left_padded(prompts)
    pixels = torch.from_numpy(arrays["sft_pixel_values"])
    with torch.no_grad():
        logits = Learner(model, layout="oft")(ids, mask, pixels, bins)
    np.testing.assert_allclose(logits[:, :-1, 31744:32000].numpy(), arrays["sft/logits_bins"], atol=1e-4)
    np.testing.assert_allclose(logits[:, -1].logsumexp(-1).numpy(), arrays["sft/stop_position_logsumexp"], atol=1e-4)
    objective = OftTokenObjective(token_map, end_token=end_token(model), label_sigma=0, device=torch.device("cpu"))
    inside = torch.ones(2, 56, dtype=torch.bool)
    batch = Batch(torch.empty(0), ids, mask, bins, torch.empty(0), inside)
    counted = objective.counted(inside)
    loss = (objective.losses(logits, batch) * counted).sum() / counted.sum()
    assert counted.sum() == 2 * 57
    assert loss.item() == pytest.approx(float(arrays["sft/loss"]), abs=1e-4)


@needs_reference
@pytest.mark.parametrize("case", ["predict_action", "proprio", "l1_head", "two_image"])
def test_hidden_states_and_actions_of_the_published_inference(model, arrays, case):
    ids = torch.from_numpy(arrays["input_ids"])
    assert ids[0, -1] != PROMPT_END, "that code appends it"
    ids = torch.cat([ids, torch.tensor([[PROMPT_END]])], dim=1)
    pixels, proprio = torch.from_numpy(arrays["pixel_values"]), None
    if case == "two_image":
        config = OpenVLAConfig.from_pretrained(FUSED, num_images_in_input=2)
        model = OpenVLAForActionPrediction.from_pretrained(FUSED, config=config, dtype=torch.float32).eval()
        pixels = torch.cat([pixels, torch.from_numpy(arrays["wrist_pixel_values"])], dim=1)
    token_map = ActionTokenMap.from_config(model.config, "libero_spatial")
    with torch.no_grad():
        if case in ("proprio", "l1_head"):
            projector = ProprioProjector.load(FUSED / "proprio_projector.safetensors")
            proprio = projector(torch.from_numpy(arrays["proprio_normalized"])[None])
        hidden = oft_hidden_states(
            model, input_ids_BL=ids, attention_mask_BL=torch.ones_like(ids), pixel_values=pixels, proprio_BH=proprio
        )
        np.testing.assert_allclose(hidden[:, :-1].numpy(), arrays[f"{case}/hidden"], atol=1e-4)
        if case == "l1_head":
            normalised = L1ActionHead.load(FUSED / "l1_action_head.safetensors")(hidden[:, :-1])
        else:
            tokens = oft_logits(model, hidden)[:, :-1].argmax(dim=-1)  # of the whole vocabulary, as there
            bins = (tokens - token_map.action_token_begin).clamp(0, 255)
            normalised = token_map.bins_to_actions(bins).view(1, 8, 7)
    actions = token_map.unnormalize(normalised)[0]
    np.testing.assert_allclose(actions.numpy(), arrays[f"{case}/actions"], atol=1e-4)


@needs_reference
def test_fresh_networks_have_the_published_names_and_shapes():
    networks = {
        "l1_action_head": L1ActionHead(64, 7),
        "proprio_projector": ProprioProjector(64, 8),
    }
    for name, network in networks.items():
        published = load_file(FUSED / f"{name}.safetensors")
        shapes = {key: tensor.shape for key, tensor in network.state_dict().items()}
        assert shapes == {key: tensor.shape for key, tensor in published.items()}


@needs_reference
def test_networks_are_read_from_the_files_of_the_oft_repository_too(tmp_path):
    """There they are pickles, written from a data-parallel wrapper, with the step in their name."""
    for network, published in (
        (L1ActionHead, "action_head--150000_checkpoint.pt"),
        (ProprioProjector, "proprio_projector--150000_checkpoint.pt"),
    ):
        tensors = load_file(FUSED / network.FILE)
        assert network.file_in(FUSED) == FUSED / network.FILE
        assert network.file_in(tmp_path) is None
        torch.save({f"module.{key}": tensor for key, tensor in tensors.items()}, tmp_path / published)
        assert network.file_in(tmp_path) == tmp_path / published
        floats = {key: tensor.float() for key, tensor in tensors.items()}
        torch.testing.assert_close(dict(network.load(tmp_path / published).state_dict()), floats, rtol=0, atol=0)
        (tmp_path / published).write_bytes(b"half a pickle")
        with pytest.raises(ValueError, match=r"cannot be read as pt"):
            network.load(tmp_path / published)
        (tmp_path / published.replace("15", "10")).touch()
        with pytest.raises(ValueError, match="leave one there"):
            network.file_in(tmp_path)


@needs_reference
def test_learner_puts_proprioception_where_the_published_code_does(model, arrays):
    """Through the module that is trained, with prompts of two lengths, as a batch has them."""
    head, projector = (
        L1ActionHead.load(FUSED / "l1_action_head.safetensors"),
        ProprioProjector.load(FUSED / "proprio_projector.safetensors"),
    )
    prompt = torch.tensor([*arrays["input_ids"][0], PROMPT_END])
    ids, mask = left_padded([prompt, torch.cat([prompt[:5], prompt])])
    pixels = torch.from_numpy(arrays["pixel_values"]).expand(2, -1, -1, -1)
    proprio = torch.from_numpy(arrays["proprio_normalized"]).expand(2, -1)
    with torch.no_grad():
        learner = Learner(model, head, projector, layout="oft")
        prediction = learner(ids, mask, pixels, torch.zeros(2, 56, dtype=torch.int64), proprio)
    actions = ActionTokenMap.from_config(model.config, "libero_spatial").unnormalize(prediction)
    np.testing.assert_allclose(actions[0].numpy(), arrays["l1_head/actions"], atol=1e-4)
    assert (actions[1] - actions[0]).abs().max() > 1e-3


def test_proprioception_is_scaled_by_its_quantiles():
    values = np.linspace(-1, 3, 401, dtype=np.float32)[:, None].repeat(8, axis=1)
    statistics = proprio_statistics(values)
    assert statistics["q01"][0] == pytest.approx(-0.96)
    scaled = normalised_proprio(values, statistics)
    np.testing.assert_allclose(scaled[[0, 4, 200, 396, 400], 3], [-1, -1, 0, 1, 1], atol=1e-6)


def test_the_command_trains_in_this_layout(demos, tmp_path):
    extra = ["--layout", "oft", "--no-augment", "--ema", "0", "--after-end", "mask", "--proprio"]
    assert run(demos, tmp_path / "policy", "--steps", "15", "--lr", "3e-3", *extra) == 0
    losses = logged(tmp_path / "policy", "train_loss")
    assert 6.0 < losses[0] < 8.0, "near the logarithm of the vocabulary of 1088"
    assert losses[-1] < losses[0] - 0.6
    assert logged(tmp_path / "policy", "validation")[-1]["cross_entropy"] < 6.5
    statistics = json.loads((tmp_path / "policy" / "dataset_statistics.json").read_text())
    assert len(statistics["libero_spatial_no_noops"]["proprio"]["q99"]) == 8
    l1 = ["--init", str(tmp_path / "policy"), "--objective", "l1", "--steps", "1"]
    assert run(demos, tmp_path / "next", *extra, *l1) == 0
    written = {path.name for path in (tmp_path / "next").iterdir()}
    assert written >= {"proprio_projector.safetensors", "l1_action_head.safetensors"}
