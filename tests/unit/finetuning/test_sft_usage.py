"""Published checkpoints do not say how many actions they decode and read one image: the options decide, once."""

import json
import shutil

import pytest
from safetensors.torch import load_file

from openvla_oft.model import checkpoints, initial
from tests.unit.finetuning.sft_runs import run
from transformers_openvla_oft import OpenVLAForAutoregressivePrediction

TWO = ["--cameras", "agentview,eye_in_hand"]
STEP = ["--steps", "1"]


@pytest.fixture(scope="module")
def published(base, tmp_path_factory):
    """The same with what the configuration of openvla-7b says."""
    folder = tmp_path_factory.mktemp("published") / "policy"
    shutil.copytree(base, folder)
    (folder / "training.json").unlink()
    config = json.loads((folder / "config.json").read_text())
    assert (config.pop("num_actions_chunk"), config.pop("num_images_in_input")) == (8, 1)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def configured(folder):
    config = json.loads((folder / "config.json").read_text())
    return config["num_actions_chunk"], config["num_images_in_input"]


@pytest.mark.parametrize("merge", [[], ["--lora-rank", "2", "--merge"]])
def test_autoregressive_openvla_stays_autoregressive(demos, published, tmp_path, merge):
    output = tmp_path / "policy"
    assert run(demos, output, "--init", str(published), *STEP, "--actions-per-chunk", "1", *merge) == 0
    assert configured(output) == (1, 1)
    assert isinstance(checkpoints.load_for_training(output)[0], OpenVLAForAutoregressivePrediction)
    assert json.loads((output / "training.json").read_text())["config"]["actions_per_chunk"] == 1
    assert run(demos, tmp_path / "more", "--init", str(output), *STEP) == 0
    assert configured(tmp_path / "more") == (1, 1)


def test_without_the_option_it_becomes_openvla_oft(demos, published, tmp_path):
    assert run(demos, tmp_path / "policy", "--init", str(published), *STEP) == 0
    assert configured(tmp_path / "policy") == (8, 1)


def test_one_image_becomes_two_as_openvla_oft_is_made(demos, published, base, tmp_path):
    oft = ["--layout", "oft", "--objective", "l1", "--proprio", "--drop-noops", *TWO]
    for name, start in (("a", published), ("b", base)):
        assert run(demos, tmp_path / name, "--init", str(start), *STEP, *oft) == 0
        assert configured(tmp_path / name) == (8, 2)
        assert load_file(tmp_path / name / "model.safetensors").keys() == load_file(start / "model.safetensors").keys()


def test_what_a_checkpoint_says_holds(demos, published, tmp_path, capsys):
    assert run(demos, tmp_path / "two", *STEP, *TWO) == 0
    assert run(demos, tmp_path / "policy", *STEP, "--init", str(tmp_path / "two")) == 2
    assert "num_images_in_input=2, but the number of --cameras is 1; give 2" in capsys.readouterr().err
    l1 = ["--actions-per-chunk", "1", "--objective", "l1"]
    assert run(demos, tmp_path / "policy", *STEP, "--init", str(published), *l1) == 2
    assert "decodes token by token" in capsys.readouterr().err


def test_an_adapter_goes_on_as_it_was_trained(demos, published, tmp_path, capsys):
    adapter = tmp_path / "adapter"
    base = ["--init", str(published), "--lora-rank", "2", *STEP]
    assert run(demos, adapter, *base, *TWO, "--actions-per-chunk", "1") == 0
    more = [*base, "--lora-path", str(adapter)]
    assert run(demos, tmp_path / "more", *more) == 2
    assert f"{adapter} was trained with num_images_in_input=2" in capsys.readouterr().err
    assert run(demos, tmp_path / "more", *more, *TWO, "--actions-per-chunk", "8") == 2
    assert f"{adapter} was trained with num_actions_chunk=1" in capsys.readouterr().err
    assert run(demos, tmp_path / "more", *more, *TWO) == 0
    assert json.loads((tmp_path / "more" / "training.json").read_text())["config"]["actions_per_chunk"] == 1


def test_the_attention_that_was_chosen_is_loaded(demos, published, tmp_path, monkeypatch, capsys):
    routes = []
    load = checkpoints.load_for_training

    def watched(*args, **kwargs):
        model, processor = load(*args, **kwargs)
        routes.append(model.config._attn_implementation)
        return model, processor

    monkeypatch.setattr(checkpoints, "load_for_training", watched)
    assert run(demos, tmp_path / "policy", "--init", str(published), *STEP, "--attention", "eager") == 0
    assert routes[0] == "eager"
    assert run(demos, tmp_path / "other", "--init", str(published), *STEP, "--attention", "flash_attention_2") == 2
    assert "--attention flash_attention_2: " in capsys.readouterr().err
    chosen = []
    monkeypatch.setattr(
        initial, "choose_attention", lambda wanted, dtype: chosen.append((wanted, str(dtype))) or "sdpa"
    )
    assert run(demos, tmp_path / "other", "--init", str(published), *STEP, "--bf16") == 0
    assert chosen == [(None, "torch.bfloat16")], "the precision that is computed in, not that of the stored weights"
