"""The trainer from demonstrations to a checkpoint: learns, repeats, goes on from a checkpoint, explains errors."""

import functools
import itertools
import json
import shutil
from types import SimpleNamespace

import pytest
import torch

from openvla_oft.data import batches, dataset
from openvla_oft.data.augment import AugmentConfig
from openvla_oft.data.frames import DeviceFrames
from openvla_oft.model import checkpoints
from openvla_oft.model.learner import Learner
from openvla_oft.torch_utils.distributed import Distributed
from openvla_oft.train import loop
from openvla_oft.train.objectives import TokenObjective
from openvla_oft.train.validation import evaluate
from rlinf.config.schema import ModelConfig
from rlinf.models import PolicySource, load_policy
from tests.unit.finetuning.sft_demos import load, write_file
from tests.unit.finetuning.sft_runs import assert_same_weights, logged, run, weights
from transformers_openvla_oft.model.action_tokens import ActionTokenMap

pytestmark = pytest.mark.usefixtures("one_thread")


def ingredients(demos, folder):
    """What ``loop.Trainer`` takes, from a tiny checkpoint."""
    model, processor = checkpoints.load_for_training(folder)
    data_set = load(demos, image_size=32)
    token_map = ActionTokenMap.from_config(model.config, "libero_spatial")
    data = batches.prepare(
        data_set,
        frames=DeviceFrames(data_set.images_FNHWC, torch.device("cpu")),
        config=model.config,
        processor=processor,
        token_map=token_map,
        after_end="mask",
    )
    split = dataset.split_demonstrations(data_set, validation_fraction=0.1, seed=0)
    objective = TokenObjective(token_map, label_sigma=0, device=torch.device("cpu"))
    parts = {"learner": Learner(model), "data": data, "split": split, "objective": objective}
    return {**parts, "distributed": Distributed()}


def test_checkpoint_folder_is_complete_and_loads(base):
    names = {path.name for path in base.iterdir()}
    assert names >= {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "preprocessor_config.json",
        "dataset_statistics.json",
        "training.json",
        "training_log.jsonl",
    }
    assert [path.name for path in base.parent.iterdir()] == ["policy"]
    statistics = json.loads((base / "dataset_statistics.json").read_text())
    assert list(statistics) == ["libero_spatial_no_noops"]
    report = json.loads((base / "training.json").read_text())
    assert report["steps"] == 1
    assert report["data"]["demonstrations"] == 6
    assert "--steps 1" in report["command"]
    assert len(report["validation_of_saved_weights"]) == 2
    model, processor = checkpoints.load_for_training(base)
    picture = torch.zeros(1, 1, 256, 256, 3, dtype=torch.uint8)
    batch = processor(picture, ["pick up the black bowl on the stove and place it on the plate"])
    with torch.no_grad():
        output = model(**vars(batch))
    bins = output.logits_BTV.argmax(dim=-1)
    actions = ActionTokenMap.from_config(model.config, "libero_spatial").env_actions(bins)
    assert actions.shape == (1, 8, 7)
    assert set(actions[..., 6].unique().tolist()) <= {-1.0, 1.0}


def test_batches_say_whether_prompts_are_padded(demos, base):
    parts = ingredients(demos, base)
    batch = parts["data"].batch(torch.arange(4))
    assert batch.padded is parts["data"].padded is True, "prompts fill the slots that the checkpoint states"
    part = batch.part(slice(1, 3))
    assert (len(part), part.padded, part.proprio_BP) == (2, True, None)
    prompt = batch.input_ids_BL, batch.attention_mask_BL, parts["data"].to_pixel_values(batch.images_BNHWC / 255)
    with torch.no_grad():
        stated, looked_up = (parts["learner"](*prompt, batch.targets_BT, padded=padded) for padded in (True, None))
    assert torch.equal(stated, looked_up)


def test_training_lowers_the_loss(demos, base, tmp_path):
    parts = ingredients(demos, base)
    config = loop.TrainConfig(
        num_steps=20, batch_size=16, learning_rate=3e-3, num_warmup_steps=3, ema_decay=0.0, log_every=1,
        augment=AugmentConfig.off(),
    )  # fmt: skip
    result = loop.train(loop.Trainer(config, **parts, folder=tmp_path))
    losses = logged(tmp_path, "train_loss")
    assert len(losses) == 20
    assert losses[0] > 5.0  # near log 256 = 5.5
    assert result.train_loss == losses[-1]
    assert losses[-1] < losses[0] - 0.4
    assert 0 < result.validation["cross_entropy"] < 6.0
    assert 0 <= result.validation["accuracy"] <= result.validation["near_accuracy"] <= 1


def test_the_autoregressive_layout_learns_the_next_action(demos, tmp_path):
    settings = ["--steps", "30", "--batch-size", "32", "--lr", "1e-2", "--ema", "0", "--no-augment"]
    assert run(demos, tmp_path / "policy", "--actions-per-chunk", "1", *settings) == 0
    losses = logged(tmp_path / "policy", "train_loss")
    assert losses[0] > 5.0  # near log 256 = 5.5
    assert losses[-1] < losses[0] - 0.5
    policy = load_policy(
        ModelConfig(model_name="openvla", num_action_chunks=1, lora_rank=4),
        PolicySource(tmp_path / "policy", unnorm_key="libero_spatial", seed=0),
        base_dtype=torch.float32,
    )
    assert policy.chunk_shape == (1, 7)


def test_same_seed_same_weights_other_seed_others(demos, base, tmp_path):
    for name, seed in (("a", "0"), ("b", "1")):
        assert run(demos, tmp_path / name, "--steps", "1", "--save-dtype", "float32", "--seed", seed) == 0
    assert_same_weights(base, tmp_path / "a")
    first, other = weights(base), weights(tmp_path / "b")
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_training_goes_on_from_a_checkpoint_with_its_statistics(demos, base, tmp_path):
    assert run(demos, tmp_path / "next", "--init", str(base), "--steps", "1") == 0
    before, after = (
        json.loads((folder / "dataset_statistics.json").read_text()) for folder in (base, tmp_path / "next")
    )
    assert after == before
    start = logged(tmp_path / "next", "train_loss")[0]
    assert start == pytest.approx(logged(base, "train_loss")[-1], abs=0.3)
    stored = weights(tmp_path / "next")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}


def test_several_suites_share_one_policy_and_its_statistics(demos, base, tmp_path, capsys):
    both = tmp_path / "demos"
    shutil.copytree(demos / "libero_spatial", both / "libero_spatial")
    write_file(both / "libero_goal" / "a_demo.hdf5", language="turn on the stove", num_demos=2, num_steps=12)
    suites = ["--suite", "libero_spatial,libero_goal"]
    assert run(both, tmp_path / "policy", *suites, "--steps", "1") == 0
    statistics = json.loads((tmp_path / "policy" / "dataset_statistics.json").read_text())
    assert list(statistics) == ["libero_spatial_no_noops", "libero_goal_no_noops"]
    assert statistics["libero_spatial_no_noops"] == statistics["libero_goal_no_noops"]
    assert statistics["libero_goal_no_noops"]["num_transitions"] == 84
    assert len(json.loads((tmp_path / "policy" / "training.json").read_text())["data"]["tasks"]) == 3
    assert run(both, tmp_path / "next", *suites, "--init", str(tmp_path / "policy"), "--steps", "1") == 0
    config = json.loads((tmp_path / "policy" / "config.json").read_text())
    assert set(config["norm_stats"]) == set(statistics)

    path = tmp_path / "policy" / "dataset_statistics.json"
    statistics["libero_goal_no_noops"]["action"]["q01"][0] -= 1
    path.write_text(json.dumps(statistics))
    assert run(both, tmp_path / "other", *suites, "--init", str(tmp_path / "policy"), "--steps", "1") == 2
    assert "normalises the actions of libero_spatial,libero_goal differently" in capsys.readouterr().err
    assert run(demos / "libero_spatial", tmp_path / "other", *suites, "--steps", "1") == 2
    assert "would be read for two suites" in capsys.readouterr().err


def test_two_cameras_two_towers_soft_labels_and_masked_ends(demos, tmp_path):
    inputs = ["--cameras", "agentview,eye_in_hand", "--towers", "dinov2,siglip"]
    targets = ["--label-sigma", "1.5", "--after-end", "mask", "--save-dtype", "bfloat16"]
    assert run(demos, tmp_path / "policy", "--steps", "1", *inputs, *targets) == 0
    config = json.loads((tmp_path / "policy" / "config.json").read_text())
    assert (config["num_images_in_input"], len(config["timm_model_ids"])) == (2, 2)


def test_validation_by_hand(demos, base):
    """A model that is sure of the right bin, except for one motion token that it puts two bins off."""
    parts = ingredients(demos, base)
    data, token_map = parts["data"], parts["objective"].token_map
    frames = torch.arange(3)  # of a demonstration of ten steps: all eight targets count
    targets = data.targets_FT[frames].long()
    guess = targets.clone()
    guess[0, 0] += 2 if targets[0, 0] < 128 else -2
    logits = torch.full((3, 56, 256), -1e4).scatter(-1, guess[..., None], 0.0)
    metrics = evaluate(lambda *_, **__: logits, data, frames, objective=parts["objective"], bf16=False, batch_size=3)
    assert metrics["accuracy"] == pytest.approx(1 - 1 / 168)
    assert metrics["near_accuracy"] == 1
    assert metrics["gripper_accuracy"] == 1
    assert metrics["entropy"] == pytest.approx(0, abs=1e-6)
    assert metrics["cross_entropy"] == pytest.approx(1e4 / 168)
    two_bins = 2 * (token_map.high_A[0] - token_map.low_A[0]) / 255
    assert metrics["first_motion_l1"] == pytest.approx(two_bins / 18, rel=1e-3)
    assert metrics["motion_l1"] == pytest.approx(two_bins / 144, rel=1e-3)


def test_minutes_end_the_training_and_the_cosine(demos, base, tmp_path, monkeypatch):
    """On a clock that moves 0.05 s at every look; one look per step, one per log line, one per progress update."""
    looks = itertools.count()
    monkeypatch.setattr(loop, "time", SimpleNamespace(perf_counter=lambda: 0.05 * next(looks)))
    config = loop.TrainConfig(minutes=0.05, batch_size=4, num_warmup_steps=0, log_every=1, validate_every=10**6)
    result = loop.train(loop.Trainer(config, **ingredients(demos, base), folder=tmp_path))
    assert 3.0 <= result.seconds <= 3.2
    rates = logged(tmp_path, "learning_rate")
    assert result.num_steps == len(rates) > 10
    assert rates == sorted(rates, reverse=True)
    assert rates[0] > 0.95 * config.learning_rate
    assert rates[-1] < 0.05 * config.learning_rate


def test_compile_failure_is_a_warning(demos, base, tmp_path, monkeypatch, caplog):
    def broken(graph, inputs):
        raise RuntimeError("no compiler here")

    monkeypatch.setattr(loop.torch, "compile", functools.partial(torch.compile, backend=broken))
    config = loop.TrainConfig(num_steps=1, batch_size=4, use_compile=True)
    result = loop.train(loop.Trainer(config, **ingredients(demos, base), folder=tmp_path))
    assert not result.compiled
    assert result.num_steps == 1
    assert "torch.compile failed" in caplog.text


def test_diverged_loss_is_reported(demos, base, tmp_path):
    parts = ingredients(demos, base)
    with torch.no_grad():
        parts["learner"].policy.language_model.lm_head.weight.fill_(float("nan"))
    with pytest.raises(loop.TrainingDivergedError, match="the loss is nan before the first step"):
        loop.train(loop.Trainer(loop.TrainConfig(num_steps=1), **parts, folder=tmp_path))


def test_a_damaged_checkpoint_is_refused(demos, base, tmp_path, capsys):
    broken = tmp_path / "broken"
    shutil.copytree(base, broken)
    stored = broken / "model.safetensors"
    stored.write_bytes(stored.read_bytes()[:5000])
    assert run(demos, tmp_path / "policy", "--init", str(broken), "--steps", "1") == 2
    assert "is incomplete or corrupt" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["broken"]
