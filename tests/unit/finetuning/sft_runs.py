"""Runs the fine-tuning command at sizes that take a second."""

import json

import torch
from safetensors.torch import load_file

from openvla_oft import finetune, pack
from openvla_oft.train import optimisation

SIZES = [
    *("--image-size", "32", "--patch-size", "16", "--vit-dim", "16", "--vit-depth", "1", "--vit-heads", "2"),
    *("--llm-hidden", "32", "--llm-layers", "2", "--llm-heads", "2", "--llm-intermediate", "48"),
]
TINY = [
    *("--device", "cpu", "--num-workers", "0", "--batch-size", "8", "--warmup-steps", "2", "--lr", "1e-3"),
    *("--log-every", "1"),
]


def command(demos, output, *extra):
    """Arguments of the command; a policy from fresh weights is tiny."""
    fresh = "--init" not in extra or extra[extra.index("--init") + 1] == "small"
    words = ["--demonstrations", demos, "--output", output, *TINY, *(SIZES if fresh else ()), *extra]
    return [str(word) for word in words]


def run(demos, output, *extra):
    return finetune.main(command(demos, output, *extra))


def packing(demos, output, *extra, size=32):
    words = ["--demonstrations", demos, "--output", output, "--image-size", size, "--num-workers", 0, *extra]
    return pack.main([str(word) for word in words])


def logged(folder, name):
    lines = [json.loads(line) for line in (folder / "training_log.jsonl").read_text().splitlines()]
    return [line[name] for line in lines if name in line]


def weights(folder, name="model.safetensors"):
    return load_file(folder / name)


def assert_same_weights(folder, other):
    """To the bit."""
    torch.testing.assert_close(weights(other), weights(folder), rtol=0, atol=0)


def stop_at(monkeypatch, step, error):
    """Raise an error in the work of a step."""
    update = optimisation.WeightAverage.update

    def stopped(self, number):
        if number == step:
            raise error
        update(self, number)

    monkeypatch.setattr(optimisation.WeightAverage, "update", stopped)
