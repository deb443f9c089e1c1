"""Loading checkpoints: through transformers' auto classes, in every published layout, completely or not at all."""

import json
import logging
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.testing import assert_close
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

from rlinf.models.identity import checkpoint_hash
from tests.openvla_reference import REFERENCE, needs_reference
from tests.small_policy import read_policy
from transformers_openvla_oft import (
    CheckpointError,
    OpenVLAConfig,
    OpenVLAForActionPrediction,
    OpenVLAForAutoregressivePrediction,
    PrismaticProcessor,
    ValueHead,
)
from transformers_openvla_oft.loading import weight_files

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
EXACT = {"rtol": 0, "atol": 0}


@pytest.fixture
def folder(small_policy, tmp_path):
    return Path(shutil.copytree(small_policy, tmp_path / "policy"))


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
    assert_close(dict(model.state_dict()), weights, **EXACT)
    processor = AutoProcessor.from_pretrained(folder)
    assert isinstance(processor, PrismaticProcessor)
    assert processor.max_prompt_length == model.config.max_prompt_length == 128


def test_one_action_per_chunk_is_decoded_token_by_token(autoregressive_policy, small_policy):
    ours = autoregressive_policy
    assert type(AutoModelForImageTextToText.from_pretrained(ours)) is OpenVLAForAutoregressivePrediction
    fresh = AutoModelForImageTextToText.from_config(OpenVLAConfig.from_pretrained(ours))
    assert type(fresh) is OpenVLAForAutoregressivePrediction
    # Published OpenVLA checkpoints do not state their chunk, so the caller does.
    model = AutoModelForImageTextToText.from_pretrained(small_policy, num_actions_chunk=1, dtype=torch.bfloat16)
    assert type(model) is OpenVLAForAutoregressivePrediction
    assert model.dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_shards_with_an_index(small_policy, tmp_path, dtype):
    model = OpenVLAForActionPrediction.from_pretrained(small_policy, dtype=dtype)
    model.value_head = head = ValueHead(32, num_outputs=8).to(dtype)
    torch.nn.init.normal_(head.head_l3.weight)
    model.save_pretrained(tmp_path, max_shard_size="200KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    again = OpenVLAForActionPrediction.from_pretrained(tmp_path)
    assert again.dtype == dtype
    assert again.value_head.head_l3.weight.shape == (8, 128), "a checkpoint's own value head is kept"
    assert_close(again.state_dict(), model.state_dict(), **EXACT)
    shard = sorted(tmp_path.glob("model-*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(CheckpointError, match=shard.name):
        OpenVLAForActionPrediction.from_pretrained(tmp_path)


def changed(folder, *, head, number):
    """The stored model, its weights and its value head told apart from others by a number."""
    model = OpenVLAForActionPrediction.from_pretrained(folder)
    model.value_head = ValueHead(32, num_outputs=1) if head else None
    with torch.no_grad():
        for name in ("projector.fc1.bias", "value_head.head_l3.weight") if head else ("projector.fc1.bias",):
            model.get_parameter(name).fill_(number)
    return model


def assert_is(folder, number, *, head):
    read = OpenVLAForActionPrediction.from_pretrained(folder)
    assert bool((read.projector.fc1.bias == number).all())
    assert (read.value_head is not None) == head
    assert not head or bool((read.value_head.head_l3.weight == number).all())


@pytest.mark.parametrize("head", [False, True])
def test_a_whole_file_saved_over_shards_counts_and_the_index_left_behind_does_not(small_policy, tmp_path, head):
    changed(small_policy, head=not head, number=1).save_pretrained(tmp_path, max_shard_size="200KB")
    changed(small_policy, head=head, number=2).save_pretrained(tmp_path)
    assert (tmp_path / INDEX).is_file(), "transformers leaves it behind, but none of its shards"
    assert_is(tmp_path, 2, head=head)
    assert weight_files(tmp_path) == [WEIGHTS]


@pytest.mark.parametrize("head", [False, True])
def test_shards_saved_over_a_whole_file_are_refused_until_one_is_moved(small_policy, tmp_path, head):
    """transformers would read the old file, where the user has just saved shards."""
    changed(small_policy, head=not head, number=1).save_pretrained(tmp_path)
    changed(small_policy, head=head, number=2).save_pretrained(tmp_path, max_shard_size="200KB")
    with pytest.raises(CheckpointError, match="two sets of weights") as error:
        OpenVLAForActionPrediction.from_pretrained(tmp_path)
    assert all(name in str(error.value) for name in (WEIGHTS, INDEX, "model-00001-of-"))
    (tmp_path / WEIGHTS).rename(tmp_path / "old")
    assert_is(tmp_path, 2, head=head)
    (tmp_path / "old").rename(tmp_path / WEIGHTS)
    (tmp_path / INDEX).unlink()
    assert_is(tmp_path, 1, head=not head)


def test_a_value_head_that_is_kept_is_not_called_unexpected(small_policy, tmp_path, caplog):
    changed(small_policy, head=True, number=1).save_pretrained(tmp_path)
    logger = logging.getLogger("transformers.modeling_utils")
    logger.addHandler(caplog.handler)
    assert_is(tmp_path, 1, head=True)
    logger.warning("something else")
    logger.removeHandler(caplog.handler)
    assert set(caplog.messages) == {"something else"}


@pytest.mark.parametrize("max_shard_size", ["50GB", "200KB"])
def test_a_shard_that_no_index_names_counts_for_nothing(small_policy, tmp_path, max_shard_size):
    changed(small_policy, head=True, number=1).save_pretrained(tmp_path, max_shard_size=max_shard_size)
    before = checkpoint_hash(tmp_path, tuple(weight_files(tmp_path)))
    leftover = {"projector.fc1.bias": torch.zeros(32), "value_head.head_l3.weight": torch.zeros(1, 128)}
    save_file(leftover, tmp_path / "model-00099-of-00099.safetensors", metadata={"format": "pt"})
    assert_is(tmp_path, 1, head=True)
    checkpoint_hash.cache_clear()
    assert checkpoint_hash(tmp_path, tuple(weight_files(tmp_path))) == before


def test_an_index_may_name_the_whole_file(folder):
    names = OpenVLAForActionPrediction.from_pretrained(folder).state_dict()
    (folder / INDEX).write_text(json.dumps({"weight_map": dict.fromkeys(names, WEIGHTS)}))
    assert weight_files(folder) == [WEIGHTS]


def edit(folder, change):
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda tensors: [tensors.pop(f"{name}.weight") for name in ("projector.fc1", "language_model.lm_head")],
            r"2 missing: language_model\.lm_head\.weight, projector\.fc1\.weight",
        ),
        (
            lambda tensors: tensors.update({f"film.{i:02d}": torch.zeros(1) for i in range(25)}),
            r"25 unexpected: film\.00, .*film\.19 and 5 more",
        ),
        (
            lambda tensors: tensors.update({"projector.fc1.weight": torch.zeros(2, 3)}),
            r"1 of another shape: projector\.fc1\.weight is \(2, 3\), expected \(256, 64\)",
        ),
        (
            lambda tensors: tensors["projector.fc1.weight"][0].fill_(torch.nan),
            r"NaN or infinity: projector\.fc1\.weight",
        ),
    ],
)
def test_weights_of_another_model_are_refused(folder, change, message):
    """Also where transformers is asked to put up with other shapes, for which it would take random numbers."""
    edit(folder, change)
    for path, where in ((folder, {}), (folder.parent, {"subfolder": folder.name})):
        with pytest.raises(CheckpointError, match=message):
            AutoModelForImageTextToText.from_pretrained(path, **where, ignore_mismatched_sizes=True)


def test_a_subfolder_holds_a_whole_checkpoint(folder):
    """Weights, value head, statistics, processor."""
    head = ValueHead(32)
    torch.nn.init.normal_(head.head_l3.weight)
    edit(folder, lambda tensors: tensors.update({f"value_head.{name}": t for name, t in head.state_dict().items()}))
    (folder / "dataset_statistics.json").write_text(json.dumps({"libero_10": {"action": "its own"}}))
    where = {"subfolder": folder.name}
    model = AutoModelForImageTextToText.from_pretrained(folder.parent, **where)
    plain = OpenVLAForActionPrediction.from_pretrained(folder)
    assert model.config.norm_stats == plain.config.norm_stats
    assert "libero_10" in model.config.norm_stats
    assert_close(model.state_dict(), plain.state_dict(), **EXACT)
    assert PrismaticProcessor.from_pretrained(folder.parent, **where).images.image_size == 32
    assert AutoProcessor.from_pretrained(folder.parent, **where).images.image_size == 32


def test_a_repository_of_the_hub_is_read_as_strictly(folder, tmp_path):
    """From the Hub's cache, whose files nobody compares before transformers loads them."""
    revision = "0" * 40
    repository = tmp_path / "models--nobody--policy"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(revision)
    snapshot = Path(shutil.copytree(folder, repository / "snapshots" / revision))
    cached = {"cache_dir": tmp_path, "local_files_only": True, "ignore_mismatched_sizes": True}
    model = OpenVLAForActionPrediction.from_pretrained("nobody/policy", **cached)
    assert_close(dict(model.state_dict()), load_file(folder / WEIGHTS), **EXACT)
    edit(snapshot, lambda tensors: tensors.update({"projector.fc1.weight": torch.zeros(2, 3)}))
    with pytest.raises(CheckpointError, match=r"projector\.fc1\.weight is \(2, 3\), expected \(256, 64\)"):
        OpenVLAForActionPrediction.from_pretrained("nobody/policy", **cached)
    edit(snapshot, lambda tensors: tensors.pop("projector.fc1.weight"))
    with pytest.raises(CheckpointError, match=r"1 missing: projector\.fc1\.weight"):
        OpenVLAForActionPrediction.from_pretrained("nobody/policy", **cached)


def test_weights_too_large_for_the_precision_are_refused(folder):
    edit(folder, lambda tensors: tensors["projector.fc1.weight"][0].fill_(1e6))
    with pytest.raises(CheckpointError, match=r"read as float16, holds NaN or infinity: projector\.fc1\.weight"):
        OpenVLAForActionPrediction.from_pretrained(folder, dtype=torch.float16)
    OpenVLAForActionPrediction.from_pretrained(folder, dtype=torch.bfloat16)


@pytest.mark.parametrize("keep", [0, -100])
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


@pytest.mark.parametrize("text", ["{}", '{"half": '])
def test_a_broken_index_is_named(folder, text):
    (folder / "model.safetensors.index.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"model\.safetensors\.index\.json.*expected the file of every weight"):
        OpenVLAForActionPrediction.from_pretrained(folder)


@pytest.mark.parametrize("loader", [OpenVLAForActionPrediction, PrismaticProcessor])
def test_a_folder_that_is_not_there(tmp_path, loader):
    with pytest.raises(CheckpointError, match=rf"^there is no checkpoint folder {tmp_path / 'gone'}\. Give"):
        loader.from_pretrained(tmp_path / "gone")


def test_a_policy_with_a_critic_goes_on_from_the_checkpoints_value_head(folder):
    head = ValueHead(32)
    torch.nn.init.normal_(head.head_l3.weight)
    edit(folder, lambda tensors: tensors.update({f"value_head.{name}": t for name, t in head.state_dict().items()}))
    critic = read_policy(folder, critic=True).value_head
    assert_close(critic.state_dict(), head.state_dict(), **EXACT)
    assert all(parameter.requires_grad for parameter in critic.parameters())
    without = read_policy(folder)
    assert without.value_head is None
    assert without.module.get_base_model().value_head is None
