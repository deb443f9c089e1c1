"""Low-rank adapters and the L1 head from the fine-tuning command: what is trained, written, loaded and merged."""

import json
from collections import Counter

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file

from openvla_oft import merge
from openvla_oft.data.batches import normalised_actions
from openvla_oft.model import checkpoints
from openvla_oft.train.objectives import env_actions
from rlinf.models.lora import attach_lora
from tests.unit.finetuning.sft_runs import logged, run
from transformers_openvla_oft import adapters
from transformers_openvla_oft.model.action_tokens import ActionTokenMap
from transformers_openvla_oft.model.adapted import SILU
from transformers_openvla_oft.model.modeling import lora_target_modules


@pytest.fixture(scope="module")
def adapter(demos, base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapter") / "policy"
    assert run(demos, folder, *adapted(base), "--steps", "3", "--lr", "1e-2") == 0
    return folder


def adapted(base):
    return [*continued(base), "--lora-alpha", "8"]


def continued(base):
    return ["--init", str(base), "--lora-rank", "4", "--ema", "0"]


def logits(model, base):
    _, processor = checkpoints.load_for_training(base)
    pictures = torch.arange(2 * 32 * 32 * 3, dtype=torch.int64).remainder(251).to(torch.uint8).view(2, 1, 32, 32, 3)
    batch = processor(pictures, ["open the drawer", "pick up the bowl"])
    with torch.no_grad():
        return model.eval()(**vars(batch)).logits_BTV


def test_an_adapter_loads_in_plain_peft_and_in_the_rl_code(base, adapter):
    assert {path.name for path in adapter.iterdir()} >= {
        "adapter_config.json",
        "adapter_model.safetensors",
        "dataset_statistics.json",
        "training.json",
    }
    assert not (adapter / "model.safetensors").exists()
    config = json.loads((adapter / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["base_model_name_or_path"]) == (4, 8, str(base))
    model, _ = checkpoints.load_for_training(base)
    plain = logits(model, base)
    with_adapter = logits(PeftModel.from_pretrained(model, str(adapter)), base)
    assert (with_adapter - plain).abs().max() > 1e-2
    model, _ = checkpoints.load_for_training(base)
    wrapped = attach_lora(model, target_modules=lora_target_modules(model), rank=4, alpha=None, path=adapter, seed=0)
    torch.testing.assert_close(logits(wrapped, base), with_adapter)


def test_the_merge_command_makes_the_checkpoint_that_training_would(demos, base, adapter, tmp_path):
    merged, trained = tmp_path / "merged", tmp_path / "trained"
    folders = ["--base", str(base), "--adapter", str(adapter)]
    assert merge.main([*folders, "--output", str(merged), "--save-dtype", "float32"]) == 0
    options = ["--steps", "3", "--lr", "1e-2", "--merge", "--save-dtype", "float32"]
    assert run(demos, trained, *adapted(base), *options) == 0
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (merged, trained))
    assert ours.keys() == load_file(base / "model.safetensors").keys()
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    model, _ = checkpoints.load_for_training(base)
    expected = logits(PeftModel.from_pretrained(model, str(adapter)), base)
    torch.testing.assert_close(logits(checkpoints.load_for_training(merged)[0], base), expected, atol=1e-4, rtol=1e-4)
    assert not (trained / "adapter_config.json").exists()
    read = [json.loads((folder / "dataset_statistics.json").read_text()) for folder in (merged, adapter)]
    assert read[0].items() >= read[1].items()
    assert json.loads((merged / "config.json").read_text())["norm_stats"].keys() >= read[1].keys()
    assert (merged / "training.json").read_text() == (adapter / "training.json").read_text()


def test_half_an_adapter_is_half_as_far_from_its_base(base, adapter, tmp_path):
    output = tmp_path / "half"
    folders = ["--base", str(base), "--adapter", str(adapter), "--output", str(output)]
    assert merge.main([*folders, "--scale", "0.5", "--save-dtype", "float32"]) == 0
    model, _ = checkpoints.load_for_training(base)
    adapters.merge_adapters(model, [adapter], coeff=0.5)
    torch.testing.assert_close(load_file(output / "model.safetensors"), dict(model.state_dict()), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"--adapter": "nothing"}, "no adapter_config.json there"),
        ({"--base": "nothing"}, "no config.json there"),
        ({"--scale": "0"}, "--scale 0.0 must be larger than 0"),
        ({"--output": "."}, "exists; remove it or give another folder"),
    ],
)
def test_what_cannot_be_merged_leaves_nothing(base, adapter, tmp_path, capsys, changed, message):
    options = {"--base": str(base), "--adapter": str(adapter), "--output": str(tmp_path / "merged"), **changed}
    assert merge.main([word for pair in options.items() for word in pair]) == 2
    assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir() if not path.name.endswith(".lock")] == []


def test_an_adapter_is_continued_and_the_base_stays(demos, base, adapter, tmp_path):
    more = [*continued(base), "--lora-path", str(adapter), "--steps", "1", "--lr", "1e-6", "--warmup-steps", "0"]
    assert run(demos, tmp_path / "more", *more) == 0
    before, after = (load_file(folder / "adapter_model.safetensors") for folder in (adapter, tmp_path / "more"))
    assert all("lora_" in name for name in after)
    torch.testing.assert_close(after, before, atol=2e-6, rtol=0)
    assert any(not torch.equal(after[name], tensor) for name, tensor in before.items())


def test_checkpointing_repeats_blocks_and_changes_nothing(demos, base, adapter, tmp_path, monkeypatch):
    calls = Counter()
    forward = SILU.forward

    def counting(activation, hidden_BSH):
        calls["with gradients"] += torch.is_grad_enabled()
        return forward(activation, hidden_BSH)

    monkeypatch.setattr(SILU, "forward", counting)
    steps = ["--steps", "3", "--lr", "1e-2"]
    assert run(demos, tmp_path / "plain", *adapted(base), *steps) == 0
    once = calls["with gradients"]
    assert run(demos, tmp_path / "again", *adapted(base), *steps, "--gradient-checkpointing", "matmuls") == 0
    assert calls["with gradients"] == 3 * once > 0
    again, expected = (load_file(folder / "adapter_model.safetensors") for folder in (tmp_path / "again", adapter))
    torch.testing.assert_close(again, expected)


def test_l1_head_learns_is_written_and_goes_on(demos, base, tmp_path):
    first, more = tmp_path / "first", tmp_path / "more"
    extra = ["--objective", "l1", "--save-dtype", "float32", "--no-augment", "--ema", "0"]
    assert run(demos, first, "--init", str(base), "--steps", "30", "--lr", "3e-3", *extra) == 0
    losses = logged(first, "train_loss")
    assert losses[-1] < 0.8 * losses[0]
    validation = logged(first, "validation")[-1]
    assert set(validation) == {"l1", "motion_l1", "first_motion_l1", "gripper_accuracy"}
    assert run(demos, more, "--init", str(first), "--steps", "1", *extra) == 0
    assert logged(more, "train_loss")[0] == pytest.approx(losses[-1], rel=0.4)
    assert (
        load_file(more / "l1_action_head.safetensors").keys() == load_file(first / "l1_action_head.safetensors").keys()
    )
    assert run(demos, tmp_path / "lora", *adapted(first), "--steps", "1", "--objective", "l1") == 0
    assert {path.name for path in (tmp_path / "lora").iterdir()} >= {
        "adapter_config.json",
        "l1_action_head.safetensors",
    }


def test_normalised_actions_and_back():
    tokens = ActionTokenMap(
        action_token_begin=768,
        num_bins=256,
        num_actions_chunk=1,
        low_A=(-0.5, *[-1.0] * 5, 0.0),
        high_A=(0.5, *[1.0] * 5, 1.0),
        mask_A=(True,) * 6 + (False,),
    )
    actions = torch.tensor([[[0.25, -0.5, 0, 0, 0, 1, -1]], [[-0.5, 0.5, 0, 0, 0, -1, 1]]])
    normalised = normalised_actions(actions, tokens)
    torch.testing.assert_close(normalised[:, 0, [0, 1, 6]], torch.tensor([[0.5, -0.5, 1], [-1, 0.5, 0]]))
    torch.testing.assert_close(env_actions(normalised, tokens), actions)
