"""Batches of prompts of several lengths, and what a model makes of them."""

import torch
from torch.testing import assert_close

from transformers_openvla_oft import OpenVLAForActionPrediction, PrismaticProcessor

TASKS = ("open the drawer", "pick up the black bowl next to the plate and place it on the plate", "turn on the stove")


def batch_of(folder, tasks=TASKS, **options):
    processor = PrismaticProcessor.from_pretrained(folder, **options)
    images = torch.randint(0, 256, (len(tasks), 1, 32, 32, 3), generator=torch.Generator().manual_seed(0))
    return processor(images.to(torch.uint8), tasks)


def load(folder, **options):
    return OpenVLAForActionPrediction.from_pretrained(folder, dtype=torch.float32, **options).eval()


def outcome(model, inputs):
    """Logits and gradients; an autoregressive model scores given bins."""
    model.zero_grad()
    bins_BT = torch.arange(7).expand(len(inputs["input_ids_BL"]), 7) if model.config.num_actions_chunk == 1 else None
    logits_BTV = model(**inputs, bins_BT=bins_BT).logits_BTV
    logits_BTV.log_softmax(-1)[..., 3].mean().backward()
    return logits_BTV, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same(actual, expected):
    """Of two outcomes."""
    assert_close(actual[0], expected[0], rtol=0, atol=1e-5)
    assert_close(actual[1], expected[1], rtol=1e-4, atol=1e-6)
