"""Checkpoint files that are cut off, of another model, or of a training that diverged: one error that names them."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from rlinf.models.registry import find_weights
from rlinf.models.simple_cnn import MODEL_TYPE, CNNSettings, fresh_cnn, load_cnn, save_cnn
from tests.small_policy import model_config, read_policy
from transformers_openvla_oft import (
    ActionTokenMap,
    CheckpointError,
    OpenVLAConfig,
    OpenVLAForActionPrediction,
    PrismaticProcessor,
    ValueHead,
)
from transformers_openvla_oft.model import heads

SUITE = "libero_spatial_no_noops"
BOUNDS = {"q01": [-1.0] * 6 + [0.0], "q99": [1.0] * 7, "mask": [True] * 6 + [False]}
CONFIG, STATISTICS, PICTURES = "config.json", "dataset_statistics.json", "preprocessor_config.json"
TOKENIZER, WEIGHTS = "tokenizer.json", "model.safetensors"


@pytest.fixture
def folder(small_policy, tmp_path):
    return Path(shutil.copytree(small_policy, tmp_path / "policy"))


def rewrite(file: Path, change: Callable[[dict], object]) -> None:
    fields = json.loads(file.read_text())
    change(fields)
    file.write_text(json.dumps(fields))


def edit(file: Path, change: Callable[[dict], object]) -> None:
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


def cut(file: Path, keep: int) -> None:
    file.write_bytes(file.read_bytes()[:keep])


def fields(**changed: object) -> Callable[[dict], object]:
    return lambda stored: stored.update(changed)


@pytest.mark.parametrize("loader", [OpenVLAConfig, OpenVLAForActionPrediction, PrismaticProcessor])
@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (CONFIG, '{"half": ', r"config\.json: no JSON"),
        (CONFIG, '{"model_type": "llama"}', "model_type 'llama'; expected 'openvla'"),
        (STATISTICS, '{"half": ', rf"{STATISTICS}.*expected the statistics of each data set.* again"),
    ],
)
def test_a_broken_configuration_is_named(folder, loader, name, text, message):
    (folder / name).write_text(text)
    with pytest.raises(CheckpointError, match=message):
        loader.from_pretrained(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda config: config["text_config"].update(num_attention_heads=3), r"\(32\) is not a multiple of .*\(3\)"),
        (fields(timm_model_ids=["none", "none"]), "unknown vision tower 'none'; known timm ids"),
        (fields(image_resize_strategy="letterbox"), "image_resize_strategy must be 'resize-naive'.* 'letterbox'"),
    ],
)
def test_a_configuration_of_another_model_is_named(folder, change, message):
    rewrite(folder / CONFIG, change)
    with pytest.raises(ValueError, match=message):
        OpenVLAForActionPrediction.from_pretrained(folder)


TOKENIZERS = {
    "cut": lambda folder: cut(folder / TOKENIZER, 5000),
    "without pad": lambda folder: rewrite(folder / "tokenizer_config.json", fields(pad_token=None)),
    "no folder": shutil.rmtree,
}


@pytest.mark.parametrize("damage", TOKENIZERS)
def test_a_broken_tokenizer_is_named(folder, small_policy, damage):
    TOKENIZERS[damage](folder)
    with pytest.raises(CheckpointError, match=rf"tokenizer in {folder} cannot be read .*expected that of a Llama"):
        PrismaticProcessor.from_pretrained(small_policy, tokenizer=folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (fields(post_processor=None), r"must put BOS \(1\) first"),
        (lambda x: x["model"]["vocab"].update({"more": 5000}), "has tokens up to number 5000.* only 1088 embeddings"),
    ],
)
def test_a_tokenizer_of_another_model_is_refused(folder, change, message):
    rewrite(folder / TOKENIZER, change)
    with pytest.raises(CheckpointError, match=f"tokenizer in {folder} {message}"):
        PrismaticProcessor.from_pretrained(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict.clear, "three numbers for each of the 2 towers"),
        (fields(input_sizes=[[3, 64, 64]] * 2), r"input_sizes=.* needs \[\[3, 32, 32\], \[3, 32, 32\]\]"),
        (fields(interpolations=["bilinear"] * 2), r"interpolations=.*bilinear.* needs \['bicubic', 'bicubic'\]"),
    ],
)
def test_picture_settings_of_no_or_another_model_are_refused(folder, change, message):
    rewrite(folder / PICTURES, change)
    with pytest.raises(CheckpointError, match=rf"preprocessor_config\.json.*{message}"):
        PrismaticProcessor.from_pretrained(folder)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"q99": [1.0] * 6}, "no bounds of actions: q01, q99 and mask differ in length"),
        ({"q01": [float("nan")] * 7}, "no bounds of actions: q01 and q99 must be finite numbers"),
        ({"q01": [2.0] * 7}, "no bounds of actions: .* q01 at most as large as q99"),
        ({"q01": [0.0], "q99": [1.0], "mask": [True]}, "statistics of 1 dimensions, config.action_dim is 7"),
        ({"q01": None}, "need an 'action' with lists q01 and q99"),
    ],
)
def test_statistics_that_are_no_bounds_are_refused(folder, changed, message):
    (folder / STATISTICS).write_text(json.dumps({SUITE: {"action": {**BOUNDS, **changed}}}))
    config = OpenVLAForActionPrediction.from_pretrained(folder).config
    with pytest.raises(CheckpointError, match=rf"libero_spatial in {folder} .*{message}"):
        ActionTokenMap.from_config(config, "libero_spatial")
    with pytest.raises(CheckpointError, match=message):
        read_policy(folder)


def test_equal_bounds_of_a_dimension_that_never_moves_are_none_of_these(folder):
    (folder / STATISTICS).write_text(json.dumps({SUITE: {"action": {**BOUNDS, "q01": [0] * 7, "q99": [0] * 7}}}))
    assert ActionTokenMap.from_config(OpenVLAConfig.from_pretrained(folder), "libero_spatial").low_A == (0.0,) * 7


def test_a_broken_configuration_is_named_before_anything_starts(folder):
    model = model_config(folder)
    (folder / CONFIG).write_text('{"half": ')
    with pytest.raises(CheckpointError, match=r"config\.json: no JSON"):
        find_weights(model, folder)


@pytest.mark.parametrize("head", [ValueHead(64).state_dict(), {"head_l1.weight": torch.zeros(512, 32)}])
def test_a_checkpoints_value_head_of_another_model_or_half_of_one_is_refused(folder, head):
    edit(folder / WEIGHTS, lambda weights: weights.update({f"value_head.{n}": tensor for n, tensor in head.items()}))
    with pytest.raises(CheckpointError, match=r"value head in .* does not fit the model: .*head_l[13]\.weight"):
        OpenVLAForActionPrediction.from_pretrained(folder)


@pytest.fixture(scope="module")
def adapter(small_policy, tmp_path_factory):
    """An adapter with a value head."""
    policy, folder = read_policy(small_policy, critic=True), tmp_path_factory.mktemp("adapter")
    policy.save(folder, {n: p.detach().numpy() for n, p in policy.module.named_parameters() if p.requires_grad})
    return folder


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda file: cut(file, 0), r"is truncated or corrupt \(.*\); copy it again"),
        (lambda file: edit(file, lambda t: t["head_l2.bias"][3].fill_(torch.nan)), r"NaN or infinity: head_l2\.bias\."),
        (lambda file: edit(file, lambda t: t.pop("head_l2.bias")), r"1 missing: head_l2\.bias"),
        (lambda file: edit(file, fields(**{"head_l2.bias": torch.zeros(3)})), r"is \(3,\), expected \(128,\)"),
    ],
)
def test_an_adapters_value_head_that_cannot_be_used_is_refused(small_policy, adapter, tmp_path, damage, message):
    folder = Path(shutil.copytree(adapter, tmp_path / "adapter"))
    read_policy(small_policy, lora_path=folder, critic=True)
    damage(folder / "value_head.safetensors")
    with pytest.raises(CheckpointError, match=rf"value head in {folder / 'value_head.safetensors'}.*{message}"):
        read_policy(small_policy, lora_path=folder, critic=True)
    read_policy(small_policy, lora_path=folder)  # without a critic, nobody reads it


@pytest.mark.parametrize("network", [heads.L1ActionHead(16, 7), heads.ProprioProjector(16, 8)])
def test_heads_of_supervised_training_that_cannot_be_used_are_refused(tmp_path, network):
    tensors, path = network.state_dict(), tmp_path / network.FILE
    network.save(tensors, tmp_path)
    torch.testing.assert_close(network.load(path).state_dict(), tensors, rtol=0, atol=0)
    first = next(iter(tensors))
    for changed, message in (
        ({**tensors, first: torch.full_like(tensors[first], torch.inf)}, f"holds NaN or infinity: {first}"),
        ({first: tensors[first]}, "is no .* of OpenVLA-OFT"),
        ({**tensors, first: torch.zeros(3, 3)}, "is no .* of OpenVLA-OFT"),
    ):
        network.save(changed, tmp_path)
        with pytest.raises(CheckpointError, match=f"{path}.* {message}"):
            network.load(path)


@pytest.fixture
def cnn(tmp_path):
    settings = CNNSettings(image_size=16, channels=(8, 8), hidden_size=8, norm_stats={"libero_10": {"action": BOUNDS}})
    save_cnn(tmp_path, settings, fresh_cnn(settings, seed=0).state_dict())
    return tmp_path


def test_a_configuration_of_the_small_network_that_is_no_object_is_named(cnn):
    (cnn / CONFIG).write_text("[]")
    with pytest.raises(CheckpointError, match=rf"config\.json: no JSON.*expected .*{MODEL_TYPE}"):
        CNNSettings.load(cnn)


def test_statistics_of_the_small_network_that_are_no_bounds_are_refused(cnn):
    rewrite(cnn / CONFIG, fields(norm_stats={"libero_10": {"action": {**BOUNDS, "q01": [5.0] * 7}}}))
    with pytest.raises(CheckpointError, match="q01 at most as large as q99"):
        CNNSettings.load(cnn).action_map("libero_10")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda file: cut(file, -100), "is missing, truncated or corrupt"),
        (lambda file: file.write_bytes(b"U\x01\xb5"), "is missing, truncated or corrupt"),
        (Path.unlink, "is missing, truncated or corrupt"),
        (lambda file: torch.save({"more": torch.zeros(2)}, file), "does not fit the model: .*missing"),
    ],
)
def test_weights_of_the_small_network_that_cannot_be_used_are_named(cnn, damage, message):
    settings, file = CNNSettings.load(cnn), cnn / "model.pt"
    load_cnn(cnn, settings, seed=0, critic=False)
    damage(file)
    with pytest.raises(CheckpointError, match=f"{file} {message}"):
        load_cnn(cnn, settings, seed=0, critic=False)


def test_weights_of_the_small_network_that_are_no_numbers_are_refused(cnn):
    settings, file = CNNSettings.load(cnn), cnn / "model.pt"
    tensors = fresh_cnn(settings, seed=0).state_dict()
    tensors["tokens.bias"][0] = torch.nan
    torch.save(tensors, file)
    with pytest.raises(CheckpointError, match=rf"{file}, .* holds NaN or infinity: tokens\.bias\. The training"):
        load_cnn(cnn, settings, seed=0, critic=False)
