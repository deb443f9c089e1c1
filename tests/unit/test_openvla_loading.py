"""Loading checkpoints: through transformers' auto classes, in every published layout, completely or not at all."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from tests.small_policy import read_policy, write_policy
from transformers_openvla_oft import (
    CheckpointError,
    OpenVLAConfig,
    OpenVLAForActionPrediction,
    OpenVLAForAutoregressivePrediction,
    PrismaticProcessor,
    ValueHead,
)

REPOSITORY = Path(__file__).resolve().parents[2]
REFERENCE = Path(os.environ.get("OPENVLA_REFERENCE", REPOSITORY.parent / "shared" / "fixtures" / "openvla_reference"))
needs_reference = pytest.mark.skipif(not REFERENCE.is_dir(), reason="set OPENVLA_REFERENCE to the reference fixtures")
WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    return write_policy(tmp_path_factory.mktemp("stored") / "policy")


@pytest.fixture
def folder(stored, tmp_path):
    return Path(shutil.copytree(stored, tmp_path / "policy"))


@needs_reference
@pytest.mark.parametrize("name", ["tiny_openvla_oft_fused", "tiny_openvla_oft_single"])
def test_auto_classes_take_ours_instead_of_the_remote_code(name, monkeypatch):
    """The published configuration names remote code; nobody is asked whether it may run."""

    def refuse(prompt):
        raise AssertionError(prompt)

    monkeypatch.setattr("builtins.input", refuse)
    folder = REFERENCE / name
    assert "auto_map" in json.loads((folder / "config.json").read_text())
    assert type(AutoConfig.from_pretrained(folder)) is OpenVLAConfig
    # Scripts for the published code ask for it; it is not in these folders.
    trusting = AutoModelForImageTextToText.from_pretrained(folder, trust_remote_code=True)
    assert type(trusting) is OpenVLAForActionPrediction
    assert type(AutoProcessor.from_pretrained(folder, trust_remote_code=True)) is PrismaticProcessor
    model = AutoModelForImageTextToText.from_pretrained(folder)
    assert type(model) is OpenVLAForActionPrediction
    files = sorted(folder.glob("model*.safetensors"))
    weights = {key: value for file in files for key, value in load_file(file).items()}
    assert model.dtype == next(iter(weights.values())).dtype
    assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())
    processor = AutoProcessor.from_pretrained(folder)
    assert isinstance(processor, PrismaticProcessor)
    assert processor.max_prompt_length == model.config.max_prompt_length == 128


@pytest.mark.skipif(not hasattr(transformers, "AutoModelForVision2Seq"), reason="transformers has dropped that name")
def test_the_published_auto_class_works_where_it_exists(stored):
    assert isinstance(transformers.AutoModelForVision2Seq.from_pretrained(stored), OpenVLAForActionPrediction)


@needs_reference
def test_statistics_beside_the_configuration_are_merged_over_its_own(tmp_path):
    source = REFERENCE / "tiny_openvla_oft_fused"
    config = AutoConfig.from_pretrained(source)
    assert set(config.norm_stats) == {"bridge_orig", "libero_spatial_no_noops"}
    shutil.copyfile(source / "config.json", tmp_path / "config.json")
    (tmp_path / "dataset_statistics.json").write_text(json.dumps({"bridge_orig": {"action": "newer"}}))
    assert OpenVLAConfig.from_pretrained(tmp_path).norm_stats == {"bridge_orig": {"action": "newer"}}


def test_one_action_per_chunk_is_decoded_token_by_token(tmp_path, stored):
    ours = write_policy(tmp_path / "policy", num_actions=1)
    assert type(AutoModelForImageTextToText.from_pretrained(ours)) is OpenVLAForAutoregressivePrediction
    fresh = AutoModelForImageTextToText.from_config(OpenVLAConfig.from_pretrained(ours))
    assert type(fresh) is OpenVLAForAutoregressivePrediction
    # Published OpenVLA checkpoints do not state their chunk, so the caller does.
    model = AutoModelForImageTextToText.from_pretrained(stored, num_actions_chunk=1, dtype=torch.bfloat16)
    assert type(model) is OpenVLAForAutoregressivePrediction
    assert model.dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_shards_with_an_index(stored, tmp_path, dtype):
    model = OpenVLAForActionPrediction.from_pretrained(stored, dtype=dtype)
    model.value_head = head = ValueHead(32, num_outputs=8).to(dtype)
    torch.nn.init.normal_(head.head_l3.weight)
    model.save_pretrained(tmp_path, max_shard_size="200KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    again = OpenVLAForActionPrediction.from_pretrained(tmp_path)
    assert again.dtype == dtype
    assert again.value_head.head_l3.weight.shape == (8, 128), "a checkpoint's own value head is kept"
    assert again.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(again.state_dict()[name], value) for name, value in model.state_dict().items())
    shard = sorted(tmp_path.glob("model-*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(CheckpointError, match=shard.name):
        OpenVLAForActionPrediction.from_pretrained(tmp_path)


def edit(folder, change):
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def test_missing_weights_are_listed_and_not_made_up(folder):
    edit(folder, lambda tensors: [tensors.pop("projector.fc1.weight"), tensors.pop("language_model.lm_head.weight")])
    with pytest.raises(CheckpointError, match=r"2 missing: language_model\.lm_head\.weight, projector\.fc1\.weight"):
        OpenVLAForActionPrediction.from_pretrained(folder)


def test_unexpected_weights_are_listed(folder):
    edit(folder, lambda tensors: tensors.update({f"film.{i:02d}": torch.zeros(1) for i in range(25)}))
    with pytest.raises(CheckpointError, match=r"25 unexpected: film\.00, .*film\.19 and 5 more"):
        AutoModelForImageTextToText.from_pretrained(folder)


def test_weights_of_another_shape_are_listed(folder):
    edit(folder, lambda tensors: tensors.update({"projector.fc1.weight": torch.zeros(2, 3)}))
    with pytest.raises(CheckpointError, match=r"projector\.fc1\.weight is \(2, 3\), expected \(256, 64\)"):
        OpenVLAForActionPrediction.from_pretrained(folder)


def test_half_a_value_head_is_refused(folder):
    edit(folder, lambda tensors: tensors.update({"value_head.head_l1.weight": torch.zeros(512, 32)}))
    with pytest.raises(CheckpointError, match="head_l3"):
        OpenVLAForActionPrediction.from_pretrained(folder)


@pytest.mark.parametrize("keep", [0, 5, 1000, -100])
def test_truncated_weights_are_named(folder, keep):
    file = folder / WEIGHTS
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(
        CheckpointError,
        match=rf"incomplete or corrupt.*cannot be read: model\.safetensors \({file.stat().st_size} bytes",
    ):
        OpenVLAForActionPrediction.from_pretrained(folder)


@pytest.mark.parametrize("name", [WEIGHTS, "config.json"])
def test_a_file_that_is_not_there(folder, name):
    (folder / name).unlink()
    with pytest.raises(CheckpointError, match=r"incomplete or corrupt"):
        OpenVLAForActionPrediction.from_pretrained(folder)


@pytest.mark.parametrize(
    "name", ["config.json", "dataset_statistics.json", "preprocessor_config.json", "tokenizer.json"]
)
def test_broken_json_is_named(folder, name):
    (folder / name).write_text('{"half": ')
    with pytest.raises(CheckpointError, match=r"incomplete or corrupt"):
        PrismaticProcessor.from_pretrained(folder)


def test_a_misspelt_option_of_the_processor(folder):
    with pytest.raises(TypeError, match="max_promt_length"):
        PrismaticProcessor.from_pretrained(folder, max_promt_length=12)


def test_a_policy_with_a_critic_goes_on_from_the_checkpoints_value_head(folder):
    head = ValueHead(32)
    torch.nn.init.normal_(head.head_l3.weight)
    edit(folder, lambda tensors: tensors.update({f"value_head.{name}": t for name, t in head.state_dict().items()}))
    critic = read_policy(folder, critic=True).value_head
    assert all(torch.equal(tensor, critic.state_dict()[name]) for name, tensor in head.state_dict().items())
    assert all(parameter.requires_grad for parameter in critic.parameters())
    without = read_policy(folder)
    assert without.value_head is None
    assert without.module.get_base_model().value_head is None
