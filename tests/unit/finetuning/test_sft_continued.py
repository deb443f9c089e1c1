"""Adapters that are continued keep what they were trained with: head, projector and the meaning of their tokens."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.unit.finetuning.sft_demos import write_suite
from tests.unit.finetuning.sft_runs import run
from transformers_openvla_oft.model.heads import L1ActionHead, ProprioProjector

HEAD, PROJECTOR, STATISTICS = (
    "l1_action_head.safetensors",
    "proprio_projector.safetensors",
    "dataset_statistics.json",
)
OFT = ["--layout", "oft", "--objective", "l1", "--proprio"]
STILL = ["--steps", "1", "--lr", "1e-8", "--warmup-steps", "0", "--ema", "0", "--weight-decay", "0"]
KEY = "libero_spatial_no_noops"


@pytest.fixture(scope="module")
def base(base, tmp_path_factory):
    """A checkpoint as it is published: without a head, and without statistics of the suite."""
    folder = shutil.copytree(base, tmp_path_factory.mktemp("base") / "policy")
    (folder / STATISTICS).unlink()
    config = json.loads((folder / "config.json").read_text())
    config["norm_stats"] = {}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def adapter(demos, base, tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapter") / "policy"
    assert run(demos, folder, *adapted(base), *OFT, "--steps", "3", "--ema", "0", "--seed", "5") == 0
    return folder


def adapted(base):
    return ["--init", str(base), "--lora-rank", "2"]


def test_head_and_projector_go_on_with_their_adapter(demos, base, adapter, tmp_path):
    more = tmp_path / "more"
    assert run(demos, more, *adapted(base), "--lora-path", str(adapter), *OFT, *STILL) == 0
    for name in (HEAD, PROJECTOR):
        torch.testing.assert_close(load_file(more / name), load_file(adapter / name), atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", [HEAD, PROJECTOR])
def test_a_lost_network_is_no_reason_to_start_a_fresh_one(demos, base, adapter, tmp_path, capsys, name):
    lost = tmp_path / "lost"
    shutil.copytree(adapter, lost)
    (lost / name).unlink()
    assert run(demos, tmp_path / "more", *adapted(base), "--lora-path", str(lost), *OFT, *STILL) == 2
    error = capsys.readouterr().err
    assert f"{lost} was trained with" in error
    assert f"has no {name}" in error
    assert [path.name for path in tmp_path.iterdir()] == ["lost"]


@pytest.mark.parametrize(
    ("name", "network"),
    [(HEAD, L1ActionHead(48, 7)), (PROJECTOR, ProprioProjector(48, 8))],
)
def test_a_network_of_another_size_is_refused(demos, base, adapter, tmp_path, capsys, name, network):
    other = tmp_path / "other"
    shutil.copytree(adapter, other)
    save_file(network.state_dict(), other / name)
    assert run(demos, tmp_path / "more", *adapted(base), "--lora-path", str(other), *OFT, *STILL) == 2
    error = capsys.readouterr().err
    assert f"{other / name} is another policy's" in error
    assert "48" in error
    assert "32" in error


def test_tokens_keep_the_meaning_that_the_adapter_learnt(demos, base, adapter, tmp_path):
    other = write_suite(tmp_path / "other", num_demos=2, num_steps=7, size=32)
    moved = tmp_path / "moved"
    shutil.copytree(adapter, moved)
    statistics = json.loads((moved / STATISTICS).read_text())
    statistics[KEY]["action"]["q99"][0] = 0.75
    (moved / STATISTICS).write_text(json.dumps(statistics))
    assert run(other, tmp_path / "more", *adapted(base), "--lora-path", str(moved), *STILL) == 0
    assert json.loads((tmp_path / "more" / STATISTICS).read_text()) == statistics
    command = [*adapted(base), "--lora-path", str(moved), "--merge", "--unnorm-key", KEY, *STILL]
    assert run(other, tmp_path / "merged", *command) == 0
    assert json.loads((tmp_path / "merged" / STATISTICS).read_text()) == statistics


def test_broken_statistics_of_an_adapter_are_told(demos, base, adapter, tmp_path, capsys):
    broken = tmp_path / "broken"
    shutil.copytree(adapter, broken)
    (broken / STATISTICS).write_text("{")
    assert run(demos, tmp_path / "more", *adapted(base), "--lora-path", str(broken), *STILL) == 2
    error = capsys.readouterr().err
    assert str(broken) in error
    assert STATISTICS in error
