"""FSDP2 in supervised training: which weights are shards, and how often they are collected."""

from collections import Counter

import pytest
import torch
from torch.distributed.tensor import DTensor

from openvla_oft.model import checkpoints
from openvla_oft.model.initial import attach_lora
from openvla_oft.model.learner import Learner, accumulation, shard
from openvla_oft.options import LoraOptions
from transformers_openvla_oft.model.modeling import fsdp_units


def learner_of(base, mesh=None, *, adapted=True, shard_frozen=False):
    model, processor = checkpoints.load_for_training(base)
    policy = attach_lora(model, LoraOptions(rank=2), base=str(base), seed=0) if adapted else model
    learner = Learner(policy)
    if mesh is not None:
        shard(learner, mesh, bf16=False, use_compile=False, shard_frozen=shard_frozen)
    return learner, processor


def backward(learner, processor, seed=0):
    pictures = torch.randint(
        0, 256, (2, 1, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed)
    )
    batch = processor(pictures, ["open the drawer", "pick up the bowl"])
    logits = learner(batch.input_ids_BL, batch.attention_mask_BL, batch.pixel_values, torch.zeros(2, 56).long())
    logits.square().sum().backward()


def sharded(learner, *, trained):
    return {isinstance(p, DTensor) for p in learner.parameters() if p.requires_grad is trained}


@pytest.mark.parametrize(
    ("options", "frozen"), [({}, {False}), ({"shard_frozen": True}, {True}), ({"adapted": False}, set())]
)
def test_the_base_of_an_adapter_stays_whole(base, mesh, options, frozen):
    learner, _ = learner_of(base, mesh, **options)
    assert sharded(learner, trained=True) == {True}
    assert sharded(learner, trained=False) == frozen


def test_a_step_collects_the_adapter_once_and_gives_the_same_gradient(base, mesh, collected):
    learner, processor = learner_of(base, mesh)
    whole, _ = learner_of(base)
    for step in range(2):
        with accumulation(learner) as begin:
            for part in range(3):
                begin(part == 2)
                backward(learner, processor, seed=part)
                backward(whole, processor, seed=part)
        assert collected == [""] * (step + 1)
    assert sharded(learner, trained=True) == {True}, "and is given back at the end of the step"
    expected = {name: p.grad for name, p in whole.named_parameters() if p.grad is not None}
    found = {name: p.grad.full_tensor() for name, p in learner.named_parameters() if p.grad is not None}
    torch.testing.assert_close(found, expected)


def test_validation_after_a_step_sees_weights_that_were_changed(base, mesh):
    learner, processor = learner_of(base, mesh)
    with accumulation(learner) as begin:
        begin(True)
        backward(learner, processor)

    def answer():
        batch = processor(torch.full((1, 1, 32, 32, 3), 90, dtype=torch.uint8), ["open the drawer"])
        with torch.no_grad():
            return learner(batch.input_ids_BL, batch.attention_mask_BL, batch.pixel_values, torch.zeros(1, 56).long())

    before = answer()
    with torch.no_grad():
        for parameter in learner.parameters():
            if isinstance(parameter, DTensor):
                parameter.to_local().add_(0.1)
    assert (answer() - before).abs().max() > 1e-2


@pytest.mark.parametrize("options", [{"shard_frozen": True}, {"adapted": False}])
def test_sharded_blocks_are_collected_for_every_pass(base, mesh, collected, options):
    learner, processor = learner_of(base, mesh, **options)
    with accumulation(learner) as begin:
        for last in (False, True):
            begin(last)
            backward(learner, processor)
    times = Counter(collected)
    assert len(times) == len(fsdp_units(learner)) + 1
    assert min(times.values()) >= 2 * 2, "forward and backward of both"
