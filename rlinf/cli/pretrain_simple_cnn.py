"""``python -m rlinf.cli.pretrain_simple_cnn``: from LIBERO demonstrations to the convolutional policy's checkpoint."""

import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import torch

from libero_runtime.cpus import num_cpus
from libero_runtime.options import Given, Option, build
from openvla_oft import cli
from openvla_oft.data import dataset
from openvla_oft.data.demonstration import DataOptions
from rlinf.config.places import check_writable
from rlinf.custom.simple_cnn_utils import PretrainConfig, pretrain
from rlinf.models.simple_cnn import CNNSettings

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Options:
    """What is read and written; how it is trained is in ``PretrainConfig``."""

    demonstrations: Annotated[Path, Option("LIBERO HDF5 files, or a folder packed by openvla_oft.pack")]
    suite: Annotated[str, Option("subfolder of the demonstrations, and statistics")] = "libero_spatial"
    output: Annotated[Path, Option("folder to write; must not exist")]
    image_size: Annotated[int, Option("side of the images the network sees")] = 128
    num_workers: Annotated[int, Option("processes that read (0: none)")] = field(default_factory=num_cpus)


def run(given: Given, command: Sequence[str]) -> None:
    """Train as the options say and write a checkpoint folder."""
    options, config = build(Options, given), build(PretrainConfig, given)
    data = DataOptions(
        demonstrations=options.demonstrations,
        suite=options.suite,
        image_size=options.image_size,
        num_workers=options.num_workers,
    )
    output = options.output
    check_writable(output.absolute(), setting="--output")
    with cli.making(output, doing="training"):
        demos = dataset.load(data)
        cli.use_our_cpus()
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        settings = CNNSettings(image_size=options.image_size)
        result = pretrain(demos, suite=data.suite, settings=settings, config=config, output=output, device=device)
    log.info(
        "%d steps in %.0f s; held-out cross-entropy %.3f, accuracy %.3f",
        result.num_steps,
        result.seconds,
        result.validation_cross_entropy,
        result.validation_accuracy,
    )
    print(output)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    description = "Train the convolutional policy on demonstrations, the start of its reinforcement learning."
    options = {Options: None, PretrainConfig: None}
    return cli.run_command("rlinf.cli.pretrain_simple_cnn", options, run, argv, description=description)


if __name__ == "__main__":
    sys.exit(main())
