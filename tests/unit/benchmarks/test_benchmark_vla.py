"""The benchmark of the 7B shape runs at a small size, and counts arithmetic as PyTorch does."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import vla
from benchmarks.vla_flops import forward_flops, training_flops
from transformers_openvla_oft.model.vision import tower_specs

PROMPT_TOKENS = 33


def setting(**options):
    values = {
        "config": vla.config_tiny(),
        "device": torch.device("cpu"),
        "dtype": torch.float32,
        "attention": "eager",  # PyTorch counts its products
        "prompt_tokens": PROMPT_TOKENS,
        "rank": 4,
        "repeats": 1,
    }
    return vla.Setting(**{**values, **options})


def vision_attention(config):
    """Some versions of PyTorch do not count the towers' attention on a CPU."""
    return sum(
        4 * (spec.num_patches + spec.num_prefix_tokens) ** 2 * spec.embed_dim * (spec.depth - 1)
        for spec in tower_specs(config)
    )


@pytest.mark.parametrize("adapter", [False, True])
def test_forward_flops_are_those_that_pytorch_counts(adapter):
    shared = setting()
    module = vla.build(shared, vla.Row("rollout", 2, adapter=adapter))
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        vla.decode(module, vla.inputs(shared, 2))
    counted = forward_flops(shared.config, prompt_tokens=PROMPT_TOKENS, rank=4 if adapter else 0)
    assert counter.get_total_flops() / 2 == pytest.approx(counted, rel=2e-3) or (
        counter.get_total_flops() / 2 == pytest.approx(counted - vision_attention(shared.config), rel=2e-3)
    )


def test_training_flops_are_those_that_pytorch_counts():
    shared = setting()
    module = vla.build(shared, vla.Row("training", 2, adapter=True))
    with FlopCounterMode(display=False) as counter:
        vla.decode(module, vla.inputs(shared, 2)).logits_BTV.mean().backward()
    counted = training_flops(shared.config, prompt_tokens=PROMPT_TOKENS, rank=4)
    # The first layers have no input that needs a gradient, and the towers' attention may not be counted.
    assert counter.get_total_flops() / 2 == pytest.approx(counted, rel=0.05)


def test_the_size_of_the_7b():
    """120 rollouts per second are 78 per cent of 744 TFLOP/s."""
    flops = forward_flops(vla.config_7b(), prompt_tokens=PROMPT_TOKENS)
    assert 120 * flops == pytest.approx(0.78 * 744e12, rel=0.005)


def test_rows_of_all_options():
    args = vla.parse(["--graphs", "--sharded", "none", "all", "--checkpointing", "none", "matmuls"])
    rows = vla.rows_of(args)
    assert len(rows) == len(set(rows)) == 2 * 2 * 2 + 2 * 2 * 2
    assert {row.part for row in vla.rows_of(vla.parse(["--parts", "rollout"]))} == {"rollout"}
    for choice, adapters in (("on", {True}), ("off", {False}), ("both", {True, False})):
        assert {row.adapter for row in vla.rows_of(vla.parse(["--parts", "rollout", "--adapter", choice]))} == adapters


def test_the_table_at_a_small_size(capsys):
    options = "--tiny --device cpu --compile off --sharded none trained --repeats 1 --batch 3 --train-batch 2 --rank 4"
    assert vla.main([*options.split(), "--checkpointing", "none", "every2", "matmuls"]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")][1:]
    assert len(rows) == 2 + 2 * 3
    assert all(float(row[9]) > 0 for row in rows)
    assert all(float(row[-1]) < 1e-4 for row in rows), "rollouts and updates agree on log-probabilities"


def test_padded_prompts_have_several_lengths():
    batch = vla.inputs(setting(padded=True), 8)
    lengths = batch.attention_mask_BL.sum(dim=1)
    assert batch.padded is True
    assert len(set(lengths.tolist())) > 2
    assert lengths.min() >= PROMPT_TOKENS // 2
    assert lengths.max() < PROMPT_TOKENS
    assert batch.attention_mask_BL[:, 0].all()
    assert batch.attention_mask_BL[:, -1].all()
    plain = vla.inputs(setting(), 8)
    assert plain.padded is False
    assert plain.attention_mask_BL.all()
    assert torch.equal(plain.pixel_values, batch.pixel_values)


def test_rows_are_compared_with_those_of_their_own_adapter_setting(capsys, monkeypatch):
    def measured(_setting, row):
        differs = 1.0 if row.adapter else 0.0
        return vla.Measured(1.0, 1.0, 0, torch.full((row.batch, 2), differs + 0.5 * (row.part == "training")), [])

    monkeypatch.setattr(vla, "measure", measured)
    vla.main(["--tiny", "--device", "cpu", "--compile", "off", "--checkpointing", "none"])
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")][1:]
    assert [float(line.strip("|").split("|")[-1]) for line in lines] == [0.0, 0.0, 0.5]


def test_a_profile_follows_each_row(capsys):
    options = "--tiny --device cpu --compile off --repeats 1 --batch 2 --train-batch 2 --rank 4 --padded --profile"
    assert vla.main([*options.split(), "--adapter", "on", "--checkpointing", "none"]) == 0
    blocks = capsys.readouterr().out.split("|dlogp| |")[1].split("\n|")[2:]
    assert [block.split("|")[0].strip() for block in blocks] == ["rollout", "training"]
    for block in blocks:
        operations = [line.split() for line in block.splitlines()[2:]]
        assert len(operations) == 10
        assert any(words[-1].startswith("aten::") for words in operations)
        times = [float(words[0]) for words in operations]
        assert times == sorted(times, reverse=True)
        assert 0 < sum(float(words[1].rstrip("%")) for words in operations) <= 100.5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "--tiny"),
        (["--tiny", "--graphs"], "needs a GPU"),
        (["--tiny", "--attention", "paged"], "expected one of: sdpa"),
    ],
)
def test_what_cannot_run_on_a_cpu_is_refused(options, message):
    with pytest.raises(SystemExit, match=message):
        vla.main(["--device", "cpu", *options])
