"""Files of a checkpoint that hold the wrong things: one error that names the file and the field, never a traceback."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText

from rlinf.config.errors import ConfigError
from rlinf.models.registry import find_weights
from rlinf.models.simple_cnn import MODEL_TYPE, CNNSettings, fresh_cnn, load_cnn, save_cnn
from tests.small_policy import model_config, read_policy, write_policy
from transformers_openvla_oft import (
    ActionTokenMap,
    CheckpointError,
    OpenVLAConfig,
    OpenVLAForActionPrediction,
    PrismaticProcessor,
    ValueHead,
)

SUITE = "libero_spatial_no_noops"
BOUNDS = {"q01": [-1.0] * 6 + [0.0], "q99": [1.0] * 7, "mask": [True] * 6 + [False]}


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    return write_policy(tmp_path_factory.mktemp("stored") / "policy")


@pytest.fixture
def folder(stored, tmp_path):
    return Path(shutil.copytree(stored, tmp_path / "policy"))


def rewrite(file: Path, change: Callable[[dict], object]) -> None:
    fields = json.loads(file.read_text())
    change(fields)
    file.write_text(json.dumps(fields))


TOKENIZERS = {
    "no JSON": lambda folder: (folder / "tokenizer.json").write_text('{"half": '),
    "cut": lambda folder: (folder / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes()[:5000]),
    "empty object": lambda folder: (folder / "tokenizer.json").write_text("{}"),
    "list": lambda folder: (folder / "tokenizer.json").write_text("[]"),
    "null": lambda folder: (folder / "tokenizer.json").write_text("null"),
    "gone": lambda folder: (folder / "tokenizer.json").unlink(),
    "another kind": lambda folder: rewrite(folder / "tokenizer.json", lambda x: x.update(model={"type": "none"})),
    "no pieces": lambda folder: rewrite(folder / "tokenizer.json", lambda x: x["model"].update(vocab=[])),
    "no BOS in front": lambda folder: rewrite(folder / "tokenizer.json", lambda x: x.update(post_processor=None)),
}
SETTINGS = {
    "no JSON": lambda file: file.write_text('{"half": '),
    "empty object": lambda file: file.write_text("{}"),
    "list": lambda file: file.write_text("[]"),
    "null": lambda file: file.write_text("null"),
    "a number for BOS": lambda file: rewrite(file, lambda x: x.update(bos_token=5)),
    "no pad": lambda file: rewrite(file, lambda x: x.update(pad_token=None)),
    "a length in letters": lambda file: rewrite(file, lambda x: x.update(model_max_length="long")),
}


@pytest.mark.parametrize("damage", [*TOKENIZERS, *(f"settings: {name}" for name in SETTINGS)])
@pytest.mark.parametrize("separate", [False, True])
def test_a_broken_tokenizer_is_named_with_its_folder(folder, stored, separate, damage):
    kind = damage.removeprefix("settings: ")
    if kind == damage:
        TOKENIZERS[kind](folder)
    else:
        SETTINGS[kind](folder / "tokenizer_config.json")
    file = "tokenizer.json" if kind == damage else "tokenizer_config.json"
    with pytest.raises(CheckpointError, match=rf"{folder} is incomplete or corrupt: {file}: .*expected the tokenizer"):
        PrismaticProcessor.from_pretrained(stored if separate else folder, tokenizer=folder if separate else None)


def test_a_tokenizer_folder_that_is_not_there(stored, tmp_path):
    with pytest.raises(CheckpointError, match=rf"there is no checkpoint folder {tmp_path / 'gone'}"):
        PrismaticProcessor.from_pretrained(stored, tokenizer=tmp_path / "gone")


def test_a_tokenizer_of_a_larger_model_is_refused(folder, stored):
    rewrite(folder / "tokenizer.json", lambda x: x["model"]["vocab"].update({"more": 5000}))
    with pytest.raises(CheckpointError, match=rf"tokenizer in {folder} has tokens up to number 5000.* only 1088 emb"):
        PrismaticProcessor.from_pretrained(stored, tokenizer=folder)


def llama(**fields: object) -> Callable[[dict], object]:
    return lambda config: config["text_config"].update(fields)


def plain(**fields: object) -> Callable[[dict], object]:
    return lambda config: config.update(fields)


@pytest.mark.parametrize("loader", [OpenVLAConfig, OpenVLAForActionPrediction, AutoModelForImageTextToText])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (plain(norm_stats=[]), "norm_stats must be an object"),
        (plain(norm_stats={SUITE: "x"}), "norm_stats must be an object"),
        (lambda config: config.pop("text_config"), "text_config, .* is missing"),
        (plain(text_config=[1]), r"text_config must be an object, .* given \[1\]"),
        (llama(hidden_size="32"), r"text_config is not .*'hidden_size' expected int, got str"),
        (llama(num_attention_heads=3), r"text_config is not .*\(32\) is not a multiple of .*\(3\)"),
        (llama(num_hidden_layers=0), "text_config.num_hidden_layers must be a whole number of at least 1, given 0"),
        (llama(vocab_size=100), "text_config.pad_token_id=1024 must be below text_config.vocab_size=100"),
        (llama(hidden_act="none"), "text_config.hidden_act must be one of .*silu.* given 'none'"),
        (
            llama(rope_parameters={"rope_type": "none"}),
            "text_config's rope_type must be one of .*default.* given 'none'",
        ),
        (llama(rope_parameters={"rope_type": []}), r"text_config's rope_type must be one of .*, given \[\]"),
        (llama(rope_parameters={"rope_type": {}}), r"text_config's rope_type must be one of .*, given \{\}"),
        (plain(id2label="x"), "id2label must be an object or null, given 'x'"),
        (plain(id2label=[]), r"id2label must be an object or null, given \[\]"),
        (llama(id2label="x"), "text_config.id2label must be an object or null, given 'x'"),
        (llama(id2label=-1), "text_config.id2label must be an object or null, given -1"),
        (llama(id2label=1.5), r"text_config.id2label must be an object or null, given 1\.5"),
        (llama(id2label=[]), r"text_config.id2label must be an object or null, given \[\]"),
        (llama(id2label=True), "text_config.id2label must be an object or null, given True"),
        (llama(per_layer_config=[1]), r"text_config.per_layer_config must be an object or null, given \[1\]"),
        (llama(per_layer_config={"0": "x"}), "text_config is not the configuration of a LLaMA: "),
        (llama(use_return_dict=True), "text_config is not the configuration of a LLaMA: .*'use_return_dict'"),
        (llama(rms_norm_eps=float("nan")), "text_config.rms_norm_eps must be a number above 0, given nan"),
        (llama(dtype="floaty"), "text_config.dtype must be one of torch's floating-point types.* 'floaty'"),
        (plain(dtype="int8"), "dtype must be one of torch's floating-point types.* given 'int8'"),
        (plain(image_sizes="32"), "image_sizes must be a list of whole numbers, .* given '32'"),
        (plain(image_sizes=32), "image_sizes must be a list of whole numbers, .* given 32"),
        (plain(image_sizes=[[32], [32]]), "image_sizes must be a list of whole numbers"),
        (plain(timm_model_ids=2), "timm_model_ids must be a list of names"),
        (plain(timm_model_kwargs=[None, None]), "timm_model_kwargs must be a list of objects"),
        (plain(timm_override_act_layers=[1, 2]), "timm_override_act_layers must be a list of names or null"),
        (plain(num_actions_chunk=True), "num_actions_chunk must be a whole number of at least 1, given True"),
        (plain(n_action_bins=1), "n_action_bins must be a whole number of at least 2, given 1"),
        (plain(n_action_bins=5000), "n_action_bins=5000 are more than the 1024 tokens"),
        (plain(pad_to_multiple_of="64"), "pad_to_multiple_of must be a whole number of at least 0, given '64'"),
        (plain(image_resize_strategy="letterbox"), "image_resize_strategy must be 'resize-naive'.* 'letterbox'"),
    ],
)
def test_a_broken_configuration_is_named(folder, loader, change, message):
    rewrite(folder / "config.json", change)
    with pytest.raises(CheckpointError, match=rf"{folder} is incomplete or corrupt: config\.json: {message}"):
        loader.from_pretrained(folder)


@pytest.mark.parametrize("loader", [OpenVLAForActionPrediction, AutoModelForImageTextToText])
@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"depth": "3"}, "depth must be a whole number of at least 2, given '3'"),
        ({"patch_size": 0}, "patch_size must be a whole number of at least 1, given 0"),
        ({"num_heads": 0}, "num_heads must be a whole number of at least 1, given 0"),
        ({"mlp_ratio": -1}, "mlp_ratio must be a number above 0, given -1"),
        ({"embed_dim": 32.0}, "embed_dim must be a whole number of at least 1, given 32.0"),
        (None, "unknown vision tower 'none'; known timm ids"),
    ],
)
def test_towers_of_no_possible_sizes_are_named(folder, loader, sizes, message):
    def change(config: dict) -> None:
        if sizes is None:
            config["timm_model_ids"] = ["none", "none"]
        else:
            config["timm_model_kwargs"][0].update(sizes)

    rewrite(folder / "config.json", change)
    with pytest.raises(CheckpointError, match=rf"no model is possible with {folder / 'config.json'}: .*{message}"):
        loader.from_pretrained(folder)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"q99": [1.0] * 6}, "no bounds of actions: q01, q99 and mask differ in length"),
        ({"mask": [True] * 6}, "no bounds of actions: q01, q99 and mask differ in length"),
        ({"q01": [float("nan")] * 7}, "finite numbers in q01 and q99, found nan"),
        ({"q99": [float("inf")] * 7}, "finite numbers in q01 and q99, found inf"),
        ({"q01": [None] * 7}, "finite numbers in q01 and q99, found None"),
        ({"q01": ["-1.0"] * 7}, "finite numbers in q01 and q99, found '-1.0'"),
        ({"q01": [2.0] * 7}, "no bounds of actions: .* q01 at most as large as q99"),
        ({"mask": None}, "a list of true and false as mask, found None"),
        ({"mask": ["false"] * 7}, "a list of true and false as mask, found"),
    ],
)
def test_statistics_that_are_no_bounds_are_refused(folder, fields, message):
    statistics = {SUITE: {"action": {**BOUNDS, **fields}}}
    (folder / "dataset_statistics.json").write_text(json.dumps(statistics))
    config = OpenVLAForActionPrediction.from_pretrained(folder).config
    with pytest.raises(CheckpointError, match=rf"the statistics of libero_spatial in {folder} .*{message}"):
        ActionTokenMap.from_config(config, "libero_spatial")
    with pytest.raises(CheckpointError, match=message):
        read_policy(folder)


def test_statistics_without_a_data_sets_name_are_refused(folder):
    (folder / "dataset_statistics.json").write_text(json.dumps({"action": BOUNDS}))
    with pytest.raises(CheckpointError, match=r"dataset_statistics\.json: 'action' holds bounds, but is not below"):
        OpenVLAConfig.from_pretrained(folder)


def test_equal_bounds_of_a_dimension_that_never_moves_are_none_of_these(folder):
    statistics = {SUITE: {"action": {**BOUNDS, "q01": [0] * 7, "q99": [0] * 7}}}
    (folder / "dataset_statistics.json").write_text(json.dumps(statistics))
    assert ActionTokenMap.from_config(OpenVLAConfig.from_pretrained(folder), "libero_spatial").low_A == (0.0,) * 7


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"input_sizes": 32}, "input_sizes must be a list with one entry for each vision tower, given 32"),
        ({"means": 3}, "means must be a list with one entry for each vision tower, given 3"),
        ({"means": [[float("nan")] * 3] * 2}, "means must have three numbers"),
        ({"stds": [[float("inf")] * 3] * 2}, "stds must have three numbers"),
        ({"means": [[123.675, 116.28, 103.53]] * 2}, r"means and stds must lie in \[0, 1\]"),
        ({"input_sizes": [[3, 32.5, 32.5]] * 2}, "square pictures of one size"),
        ({"input_sizes": [[4, 32, 32]] * 2}, r"as \[3, 224, 224\], given"),
        ({"input_sizes": [[3, 64, 64]] * 2}, "pictures of 64 pixels a side for 2 vision.* has 2 that read 32"),
        (
            {"input_sizes": [[3, 32, 32]], "means": [[0.5] * 3], "stds": [[0.5] * 3]},
            "pictures of 32 pixels a side for 1 vision.* has 2 that read 32",
        ),
        ({"interpolations": ["bilinear"] * 2}, "interpolations must be 'bicubic'"),
    ],
)
def test_picture_settings_of_no_or_another_model_are_refused(folder, fields, message):
    rewrite(folder / "preprocessor_config.json", lambda stored: stored.update(fields))
    with pytest.raises(CheckpointError, match=rf"preprocessor_config\.json.*{message}"):
        PrismaticProcessor.from_pretrained(folder)


def test_weights_of_whole_numbers_are_refused(folder):
    weights = load_file(folder / "model.safetensors")
    weights["projector.fc1.weight"] = weights["projector.fc1.weight"].to(torch.int8)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"no floating-point numbers: projector\.fc1\.weight\. Quantised"):
        OpenVLAForActionPrediction.from_pretrained(folder)


@pytest.mark.parametrize("name", ["config.json", "dataset_statistics.json"])
def test_a_folder_in_a_files_place_is_named(folder, name):
    (folder / name).unlink(missing_ok=True)
    (folder / name).mkdir()
    with pytest.raises(CheckpointError, match=rf"{name}: it cannot be read \(Is a directory\)"):
        OpenVLAConfig.from_pretrained(folder)


@pytest.mark.parametrize("text", ["[]", '{"half": '])
def test_a_broken_configuration_is_named_before_anything_starts(folder, text):
    model = model_config(folder)
    (folder / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"config\.json: no JSON"):
        find_weights(model, folder)


def test_a_checkpoints_value_head_of_another_model_is_refused(folder):
    weights = load_file(folder / "model.safetensors")
    head = {f"value_head.{name}": tensor for name, tensor in ValueHead(64).state_dict().items()}
    save_file({**weights, **head}, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"value head in .* does not fit: .*head_l1\.weight"):
        OpenVLAForActionPrediction.from_pretrained(folder)


def adapter_with_head(stored: Path, folder: Path) -> Path:
    policy = read_policy(stored, critic=True)
    folder.mkdir()
    policy.save(folder, {n: p.detach().numpy() for n, p in policy.module.named_parameters() if p.requires_grad})
    return folder / "value_head.safetensors"


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_value_head_of_a_training_that_diverged_is_refused(stored, tmp_path, number):
    file = adapter_with_head(stored, tmp_path / "adapter")
    read_policy(stored, lora_path=file.parent, critic=True)
    tensors = load_file(file)
    tensors["head_l2.bias"][3] = number
    save_file(tensors, file)
    with pytest.raises(ConfigError, match=rf"{file} is not usable: 1 of its tensors hold NaN .*: head_l2\.bias\. The"):
        read_policy(stored, lora_path=file.parent, critic=True)
    read_policy(stored, lora_path=file.parent)  # without a critic, nobody reads it


@pytest.mark.parametrize("keep", [0, 5, 200, -100])
def test_a_value_head_that_was_cut_off_is_refused(stored, tmp_path, keep):
    file = adapter_with_head(stored, tmp_path / "adapter")
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(ConfigError, match=rf"the value head in {file} is truncated or corrupt \(.*\); copy it again"):
        read_policy(stored, lora_path=file.parent, critic=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda head: head.update(head_l1=torch.zeros(2)), r"head_l1 is \(2,\), the model needs None"),
        (lambda head: head.pop("head_l2.bias"), r"head_l2\.bias is None, the model needs \(128,\)"),
        (lambda head: head.update({"head_l2.bias": torch.zeros(3)}), r"head_l2\.bias is \(3,\), the model needs"),
    ],
)
def test_a_value_head_of_another_shape_is_refused(stored, tmp_path, change, message):
    file = adapter_with_head(stored, tmp_path / "adapter")
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)
    with pytest.raises(ConfigError, match=rf"{file} does not fit: {message}"):
        read_policy(stored, lora_path=file.parent, critic=True)


@pytest.fixture
def cnn(tmp_path):
    settings = CNNSettings(image_size=16, channels=(8, 8), hidden_size=8, norm_stats={"libero_10": {"action": BOUNDS}})
    save_cnn(tmp_path, settings, fresh_cnn(settings, seed=0).state_dict())
    return tmp_path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (plain(hidden_size="8"), "hidden_size must be a whole number of at least 1, given '8'"),
        (plain(channels=8), "channels must be a list of whole numbers, given 8"),
        (plain(channels=["8"]), "each of channels must be a whole number"),
        (lambda config: config.pop("channels"), "channels must be a list of whole numbers, given None"),
        (plain(norm_stats=[]), "norm_stats must have the statistics of each suite by its name"),
        (plain(norm_stats={"libero_10": {}}), "the statistics of libero_10 .* need an 'action'"),
        (plain(norm_stats={"libero_10": {"action": {**BOUNDS, "q01": [5.0] * 7}}}), "q01 at most as large as q99"),
    ],
)
def test_a_broken_configuration_of_the_small_network_is_named(cnn, change, message):
    CNNSettings.load(cnn).action_map("libero_10")
    rewrite(cnn / "config.json", change)
    with pytest.raises(ConfigError, match=rf"config\.json.*{message}|{message}"):
        CNNSettings.load(cnn).action_map("libero_10")


def test_a_configuration_of_the_small_network_that_is_no_object_is_named(cnn):
    for text in ("[]", '{"half": '):
        (cnn / "config.json").write_text(text)
        with pytest.raises(CheckpointError, match=rf"config\.json: no JSON.*expected .*{MODEL_TYPE}"):
            CNNSettings.load(cnn)


@pytest.mark.parametrize("keep", [0, 5, 300, -100, None])
def test_weights_of_the_small_network_that_cannot_be_read_are_named(cnn, keep):
    settings, file = CNNSettings.load(cnn), cnn / "model.pt"
    load_cnn(cnn, settings, seed=0, critic=False)
    if keep is None:
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(ConfigError, match=rf"{file} is missing, truncated or corrupt"):
        load_cnn(cnn, settings, seed=0, critic=False)


def test_weights_of_the_small_network_that_are_no_numbers_are_refused(cnn):
    settings, file = CNNSettings.load(cnn), cnn / "model.pt"
    tensors = fresh_cnn(settings, seed=0).state_dict()
    tensors["tokens.bias"][0] = torch.nan
    torch.save(tensors, file)
    with pytest.raises(ConfigError, match=rf"{file} is not usable: .* NaN or infinity: tokens\.bias\. The training"):
        load_cnn(cnn, settings, seed=0, critic=False)
    torch.save([1], file)
    with pytest.raises(ConfigError, match=rf"{file} holds no state dict"):
        load_cnn(cnn, settings, seed=0, critic=False)
