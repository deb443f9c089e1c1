"""Runs the fine-tuning command at sizes that take a second."""

import json

from openvla_oft import finetune

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


def logged(folder, name):
    lines = [json.loads(line) for line in (folder / "training_log.jsonl").read_text().splitlines()]
    return [line[name] for line in lines if name in line]
