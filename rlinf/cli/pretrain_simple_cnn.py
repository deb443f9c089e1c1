"""``python -m rlinf.cli.pretrain_simple_cnn``: from LIBERO demonstrations to the convolutional policy's checkpoint."""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from libero_runtime.cpus import num_cpus
from rlinf.cli.console import run_cli

log = logging.getLogger(__name__)


def main(argv: Sequence[str]) -> int:
    """Train and write a checkpoint folder; returns the exit code."""
    options = _parser().parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s", datefmt="%H:%M:%S")
    from openvla_oft import cli
    from rlinf.config.places import check_writable

    output: Path = options.output
    check_writable(output.absolute(), setting="--output")
    with cli.alone(output.parent, output=output, doing=f"training {output.name} in", name=f".{output.name}.lock"):
        _pretrain(options)
    print(output)
    return 0


def _pretrain(options: argparse.Namespace) -> None:
    import torch

    from openvla_oft import cli
    from openvla_oft.data import dataset
    from openvla_oft.data.demonstration import DataOptions
    from rlinf.config import ConfigError
    from rlinf.custom.simple_cnn_utils import PretrainConfig, pretrain
    from rlinf.models.simple_cnn import CNNSettings

    if options.output.exists():
        raise ConfigError(f"--output {options.output} exists; give another folder or remove it")
    config = PretrainConfig(
        num_steps=options.steps,
        batch_size=options.batch_size,
        learning_rate=options.lr,
        label_sigma=options.label_sigma,
        validation_fraction=options.validation_fraction,
        seed=options.seed,
    )
    demos = dataset.load(
        DataOptions(
            demonstrations=options.demonstrations,
            suite=options.suite,
            image_size=options.image_size,
            max_demos_per_task=options.max_demos_per_task,
            num_workers=options.num_workers,
        )
    )
    cli.use_our_cpus()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    settings = CNNSettings(image_size=options.image_size)
    result = pretrain(
        demos, suite=options.suite, settings=settings, config=config, output=options.output, device=device
    )
    log.info(
        "%d steps in %.0f s; held-out cross-entropy %.3f, accuracy %.3f",
        result.num_steps,
        result.seconds,
        result.validation_cross_entropy,
        result.validation_accuracy,
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m rlinf.cli.pretrain_simple_cnn",
        description="Train the convolutional policy on demonstrations, the start of its reinforcement learning.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--demonstrations", type=Path, required=True, help="LIBERO HDF5 files, or a folder packed by openvla_oft.pack"
    )
    parser.add_argument("--suite", default="libero_spatial", help="subfolder of the demonstrations, and statistics")
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    parser.add_argument("--steps", type=int, default=4000, help="optimizer steps")
    parser.add_argument("--batch-size", type=int, default=128, help="frames per step")
    parser.add_argument("--lr", type=float, default=1e-3, help="peak learning rate")
    parser.add_argument("--label-sigma", type=float, default=1.0, help="smoothing of labels over bins; 0: none")
    parser.add_argument("--image-size", type=int, default=128, help="side of the pictures the network sees")
    parser.add_argument("--max-demos-per-task", type=int, default=None, help="use the first ones only")
    parser.add_argument("--validation-fraction", type=float, default=0.02, help="share that is held out")
    parser.add_argument("--num-workers", type=int, default=num_cpus(), help="processes that read")
    parser.add_argument("--seed", type=int, default=0)
    return parser


if __name__ == "__main__":
    run_cli(main)
