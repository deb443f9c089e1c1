"""What is recorded of a policy's training is taken over when it is used, and what cannot work is refused."""

import json
import logging
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from openvla_oft.model.training_record import TrainingRecord, training_record
from rlinf.cli.console import user_message
from rlinf.cli.request import Request, parse
from rlinf.config import ConfigError
from rlinf.custom.sequence.lineage import Lineage
from rlinf.models import load_policy
from rlinf.models.lora import trainable_parameters
from tests.launchers import request
from tests.simple_cnn import write_cnn
from tests.small_policy import read_policy, write_adapter
from tests.unit.finetuning.sft_runs import run

WRIST = "eye_in_hand"
ADAPTER, BENEATH = "actor.model.lora_path={}", "actor.model.previous_lora_paths=[{}]"


@pytest.fixture
def stored(small_policy) -> Path:
    return small_policy


@pytest.fixture
def folder(stored, tmp_path) -> Path:
    return Path(shutil.copytree(stored, tmp_path / "policy"))


@pytest.fixture
def adapter(stored, tmp_path) -> Path:
    return write_adapter(stored, tmp_path / "adapter", seed=0)


def test_a_fresh_adapter_does_not_begin_where_earlier_ones_did(stored, adapter):
    """What one seed draws, O-LoRA's penalty would find in each adapter's own first rows."""
    beneath = [], [adapter], [adapter, adapter]
    lists = [f"actor.model.previous_lora_paths=[{','.join(map(str, some))}]" for some in beneath]
    seeds = [request(stored, "actor.model.lora_rank=4", some).source.seed for some in lists]
    assert seeds[0] == request(stored, "actor.model.lora_rank=4", "method=ewc").source.seed
    assert len(set(seeds)) == 3


def note(folder: Path, *, cameras=("agentview",), **config) -> None:
    """Leave what fine-tuning notes."""
    config = {"objective": "tokens", "layout": "rl", "proprio": False, "actions_per_chunk": 8, **config}
    (folder / "training.json").write_text(json.dumps({"data": {"cameras": cameras}, "config": config}))


def state_images(folder: Path, count: int) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "num_images_in_input": count}))


def used(folder: Path, *overrides: str) -> Request:
    """The command line of a training or an evaluation with the policy, checked; nothing is started."""
    return request(folder, "actor.model.lora_rank=4", *overrides)


def refused(folder: Path, *overrides: str) -> str:
    """The one message that a user sees."""
    with pytest.raises(ValueError) as caught:
        used(folder, *overrides)
    message = user_message(caught.value)
    assert message is not None
    return message


# ------------------------------------------------------------------------------------------------------- what is noted


def test_fine_tuning_notes_what_its_policy_needs(demos, tmp_path):
    oft = ["--layout", "oft", "--objective", "l1", "--proprio", "--cameras", f"agentview,{WRIST}"]
    assert run(demos, tmp_path / "oft", "--steps", "1", *oft, "--pictures", "oft_random_crop") == 0
    record = training_record(tmp_path / "oft")
    assert len(record.needs) == 2
    assert (record.layout, record.pictures, record.picture_path) == ("oft", "oft_random_crop", "oft_center_crop")
    assert (record.cameras, record.actions_per_chunk) == (("agentview", WRIST), 8)
    assert record.statistics == ("libero_spatial_no_noops",)
    state = {path.name: path for path in (tmp_path / "oft").iterdir()}
    for name in ("l1_action_head.safetensors", "proprio_projector.safetensors"):
        state[name].unlink()
    assert len(training_record(tmp_path / "oft").needs) == 2, "training.json says so too"


def test_older_notes_say_less(folder):
    (folder / "training.json").write_text(
        json.dumps({"data": {"cameras": ["agentview"]}, "config": {"proprio": False}})
    )
    assert training_record(folder) == TrainingRecord({}, cameras=("agentview",))
    used(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"training\.json: no JSON"),
        ('{"config": {"picture_path": "tf"}}', "picture_path=tf, which is not known; expected one of: rl, oft, oft_"),
    ],
)
def test_notes_that_cannot_be_read_are_named(folder, text, message):
    (folder / "training.json").write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        used(folder)
    assert str(folder) in str(caught.value)
    assert user_message(caught.value) is not None


# ---------------------------------------------------------------------------------------------------- what cannot work

BESIDE = {
    "action_head--150000_checkpoint.pt": "L1 regression",
    "noisy_action_projector--50_checkpoint.pt": "diffusion",
    "l1_action_head.safetensors": "L1 regression",
    "proprio_projector--150000_checkpoint.pt": "proprioception",
    "proprio_projector.safetensors": "proprioception",
    "vision_backbone--150000_checkpoint.pt": "FiLM",
}


@pytest.mark.parametrize(("name", "noted"), list(zip(BESIDE, [False, True] * 3, strict=True)))
def test_a_network_beside_a_checkpoint_is_no_policy_of_tokens(folder, name, noted):
    if noted:
        note(folder)
    (folder / name).touch()
    message = refused(folder)
    assert BESIDE[name] in message
    assert all(part in message for part in (str(folder), name, "--objective tokens", "actor.checkpoint_load_path"))


@pytest.mark.parametrize(
    ("of_base", "of_adapter", "override", "words"),
    [
        ({"objective": "l1"}, None, "", ["L1 regression"]),
        ({"proprio": True}, None, "", ["proprio"]),
        (None, {"objective": "l1"}, ADAPTER, ["L1 regression", "actor.model.lora_path"]),
        (None, {"objective": "l1"}, BENEATH, ["L1 regression", "actor.model.lora_path"]),
        (
            None, {"actions_per_chunk": 4}, ADAPTER,
            ["actor.model.num_action_chunks=8", "give actor.model.num_action_chunks=4, and num_actions_chunk=4 in the "
             "config.json of its base"],
        ),
        (
            None, None, "actor.model.num_action_chunks=4",
            ["give actor.model.model_name=openvla_oft and actor.model.num_action_chunks=8"],
        ),
    ],
)  # fmt: skip
def test_notes_say_what_cannot_work(folder, adapter, of_base, of_adapter, override, words):
    for place, config in ((folder, of_base), (adapter, of_adapter)):
        if config:
            note(place, **config)
    message = refused(folder, *([override.format(adapter)] if override else []))
    assert [part for part in words if part not in message] == []


def test_an_adapter_of_the_oft_repository_has_its_networks_above_it(stored, tmp_path):
    adapter = write_adapter(stored, tmp_path / "fine_tuned" / "lora_adapter", seed=0)
    used(stored, f"actor.model.lora_path={adapter}")
    (adapter.parent / "action_head--5000_checkpoint.pt").touch()
    assert "L1 regression" in refused(stored, f"actor.model.lora_path={adapter}")


def test_an_adapter_of_reinforcement_learning_inherits_it(folder, adapter):
    """One that was trained before this was looked at; where its own training says what it saw, that counts."""
    note(folder, objective="l1")
    lineage = {"base_model": str(folder), "learnt_tasks": (0,), "stage": (0,)}
    Lineage("sequential", "libero_spatial", 7, **lineage).save(adapter)
    assert "L1 regression" in refused(folder, f"actor.model.lora_path={adapter}")


def test_an_adapter_that_was_trained_on_tokens_counts_more_than_its_base(folder, adapter):
    note(folder, objective="l1")
    note(adapter)
    assert used(folder, f"actor.model.lora_path={adapter}").adapter == adapter


def test_the_sequence_of_the_other_layout_is_warned_of(folder, caplog):
    note(folder, layout="oft")
    used(folder)
    assert any(line.levelname == "WARNING" and "--layout oft" in line.getMessage() for line in caplog.records)


def test_random_actions_need_no_policy(folder):
    note(folder, objective="l1")
    used(folder, "rollout.worker=random_action")


# ------------------------------------------------------------------------------------------------------------ pictures


@pytest.mark.parametrize("by_adapter", [False, True])
def test_the_picture_path_is_taken_over_and_said_once(folder, adapter, caplog, by_adapter):
    caplog.set_level(logging.INFO)
    note(adapter if by_adapter else folder, picture_path="oft_center_crop")
    request = used(folder, *([f"actor.model.lora_path={adapter}"] if by_adapter else []))
    assert request.config.actor.model.picture_path == "oft_center_crop"
    (line,) = [line for line in caplog.messages if "picture_path" in line]
    assert "actor.model.picture_path=oft_center_crop" in line
    policy = load_policy(request.config.actor.model, request.source, base_dtype=torch.float32)
    assert policy.processor.picture_path == "oft_center_crop"


@pytest.mark.parametrize("given", ["rl", "oft"])
def test_another_one_that_is_set_stays_and_is_warned_of(folder, caplog, given):
    note(folder, picture_path="oft_center_crop")
    assert used(folder, f"actor.model.picture_path={given}").config.actor.model.picture_path == given
    (line,) = [line for line in caplog.records if "picture_path" in line.getMessage()]
    assert line.levelname == "WARNING"


@pytest.mark.parametrize("recorded", [None, "rl"])
def test_the_default_is_that_of_reinforcement_learning(folder, caplog, recorded):
    caplog.set_level(logging.INFO)
    if recorded is not None:
        note(folder, picture_path=recorded)
    assert used(folder).config.actor.model.picture_path == "rl"
    assert not [line for line in caplog.messages if "picture_path" in line]


def test_a_checkpoint_of_reinforcement_learning_acts_as_it_did_there(folder, adapter, caplog):
    note(folder, picture_path="oft_center_crop", cameras=["agentview"])
    lineage = {"base_model": str(folder), "learnt_tasks": (0,), "stage": (0,)}
    own = {"picture_path": "oft", "cameras": ("robot0_eye_in_hand",), "unnorm_key": "libero_spatial_no_noops"}
    Lineage("sequential", "libero_spatial", 7, **lineage, **own).save(adapter)
    assert Lineage.load(adapter) == Lineage("sequential", "libero_spatial", 7, **lineage, **own)
    model = used(folder, f"actor.model.lora_path={adapter}", f"env.cameras=[{WRIST}]").config.actor.model
    assert model.picture_path == "oft"
    assert not caplog.records
    assert "give env.cameras=[robot0_eye_in_hand]" in refused(folder, f"actor.model.lora_path={adapter}")


# ------------------------------------------------------------------------------------------------------------- cameras


@pytest.mark.parametrize("noted", [False, True])
def test_a_camera_too_few_or_too_many(folder, noted):
    state_images(folder, 2)
    if noted:
        note(folder, cameras=["agentview", WRIST])
    for given in ("agentview", "agentview,eye_in_hand,frontview"):
        message = refused(folder, f"env.cameras=[{given}]")
        assert f"reads 2 image(s) per observation, but env.cameras=[{given}] names" in message
        assert f"give env.cameras=[agentview,{WRIST}]" in message
    used(folder, f"env.cameras=[agentview,{WRIST}]")
    used(folder, "env.cameras=[agentview,robot0_eye_in_hand]")


def test_the_convolutional_policy_states_its_pictures_too(tmp_path):
    model = write_cnn(tmp_path / "cnn")
    words = [f"actor.checkpoint_load_path={model}", f"rollout.model_dir={model}"]
    name = ["--config-name", "crl_experiment/libero_spatial_grpo_simple_cnn"]
    parse([*name, *words], prog="test", description="test")
    with pytest.raises(ConfigError, match=r"reads 1 image\(s\) per observation, but env\.cameras"):
        parse([*name, *words, f"env.cameras=[agentview,{WRIST}]"], prog="test", description="test")


def test_another_camera_is_refused_as_a_default_and_warned_of_when_it_is_set(folder, caplog):
    note(folder, cameras=[WRIST])
    assert f"give env.cameras=[{WRIST}]" in refused(folder)
    used(folder, "env.cameras=[robot0_eye_in_hand]")
    assert not caplog.records
    used(folder, "env.cameras=[frontview]")
    assert [line.levelname for line in caplog.records] == ["WARNING"]


def test_an_adapter_of_two_pictures_needs_a_base_that_says_so(folder, adapter):
    note(adapter, cameras=["agentview", WRIST])
    overrides = (f"actor.model.lora_path={adapter}", f"env.cameras=[agentview,{WRIST}]")
    assert "set num_images_in_input=2 in the base's config.json" in refused(folder, *overrides)
    state_images(folder, 2)
    used(folder, *overrides)


# --------------------------------------------------------------------------------------------------- chunks, statistics


def test_one_that_decodes_token_by_token_is_another_policy(autoregressive_policy):
    message = refused(autoregressive_policy)
    assert "give actor.model.model_name=openvla and actor.model.num_action_chunks=1" in message


@pytest.mark.parametrize("own", [False, True])
def test_statistics_that_are_not_there(stored, adapter, own):
    """Neither in the checkpoint nor beside the adapter."""
    overrides = (f"actor.model.lora_path={adapter}", "actor.model.unnorm_key=libero_goal")
    if own:
        write_statistics(adapter, "libero_goal_no_noops")
        used(stored, *overrides)
    else:
        message = refused(stored, *overrides)
        assert "no action statistics libero_goal (nor libero_goal_no_noops)" in message
        assert "give actor.model.unnorm_key=KEY" in message


def write_statistics(folder: Path, key: str) -> None:
    bounds = {"q01": [-0.5] * 6 + [0.0], "q99": [0.5] * 6 + [1.0], "mask": [True] * 6 + [False]}
    (folder / "dataset_statistics.json").write_text(json.dumps({key: {"action": bounds}}))


def test_statistics_of_another_name_are_taken_over(folder, caplog):
    caplog.set_level(logging.INFO)
    write_statistics(folder, "bridge_orig")
    note(folder, statistics=["bridge_orig"])
    assert used(folder).source.unnorm_key == "bridge_orig"
    assert "actor.model.unnorm_key=bridge_orig" in caplog.text
    caplog.clear()
    assert used(folder, "actor.model.unnorm_key=libero_spatial").source.unnorm_key == "libero_spatial"
    assert [line.levelname for line in caplog.records] == ["WARNING"]


def test_statistics_of_the_suite_need_no_word(folder, caplog):
    caplog.set_level(logging.INFO)
    note(folder, statistics=["libero_goal_no_noops", "libero_spatial_no_noops"])
    assert used(folder).source.unnorm_key == "libero_spatial"
    assert "unnorm_key" not in caplog.text


def test_an_adapters_own_statistics_say_what_its_tokens_mean(stored, adapter, tmp_path):
    write_statistics(adapter, "libero_spatial_no_noops")
    for folder in (adapter, write_adapter_again(stored, adapter, tmp_path / "more")):
        policy = read_policy(stored, lora_path=folder)
        assert policy.actions.high_A[0] == 0.5
    assert read_policy(stored).actions.high_A[0] == 1.0


def write_adapter_again(base: Path, adapter: Path, path: Path) -> Path:
    """As reinforcement learning writes what it made of an adapter."""
    policy = read_policy(base, lora_path=adapter)
    path.mkdir()
    policy.save(path, {name: p.detach().numpy() for name, p in trainable_parameters(policy.module).items()})
    assert (
        load_file(path / "adapter_model.safetensors").keys() == load_file(adapter / "adapter_model.safetensors").keys()
    )
    return path


# ------------------------------------------------------------------------------------------------------ adapters' parts

PARTS = [
    {"modules_to_save": ["lm_head"]},
    {"use_dora": True},
    {"lora_bias": True},
    {"bias": "all"},
    {"init_lora_weights": "pissa"},
    {"a_part_of_the_future": True},
]


@pytest.mark.parametrize(("part", "key"), list(zip(PARTS, [ADAPTER, BENEATH] * 3, strict=True)), ids=str)
def test_an_adapter_with_parts_beside_plain_lora_is_refused_before_anything_starts(stored, adapter, part, key):
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **part}))
    message = refused(stored, key.format(adapter))
    (name,) = part
    assert f"{name}=" in message
    assert str(adapter) in message
    assert "expected plain LoRA" in message


def test_what_is_plain_is_used(stored, adapter):
    file = adapter / "adapter_config.json"
    plain = {"use_rslora": True, "lora_dropout": 0.1, "modules_to_save": None, "bias": "none"}
    file.write_text(json.dumps({**json.loads(file.read_text()), **plain}))
    used(stored, f"actor.model.lora_path={adapter}")
    read_policy(stored, lora_path=adapter)


@pytest.mark.parametrize("key", ["lora_rank", "lora_alpha"])
def test_another_rank_or_alpha_is_refused_before_anything_starts(stored, adapter, key):
    used(stored, f"actor.model.lora_path={adapter}", f"actor.model.{key}=4")
    with pytest.raises(ConfigError, match=rf"give actor\.model\.{key}=4"):
        used(stored, f"actor.model.lora_path={adapter}", f"actor.model.{key}=8")
