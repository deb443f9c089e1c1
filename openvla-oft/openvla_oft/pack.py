"""``python -m openvla_oft.pack``: read demonstrations once and store the frames at the model's size.

Reading and resizing hundreds of thousands of pictures takes minutes; the packed folder is memory-mapped by
``python -m openvla_oft.finetune --demonstrations PACKED``, so that several trainings share it.
"""

import argparse
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from openvla_oft import cli
from openvla_oft.data import dataset

logger = logging.getLogger(__name__)


def parser() -> argparse.ArgumentParser:
    """Every option of the command."""
    arguments = argparse.ArgumentParser(prog="python -m openvla_oft.pack", description=__doc__)
    cli.add_data_arguments(arguments)
    arguments.add_argument("--output", type=Path, required=True, help="folder to write; must not exist")
    arguments.add_argument("--image-size", type=int, default=128, help="side of the stored pictures in pixels")
    return arguments


def run(options: argparse.Namespace) -> None:
    """Pack as the options say."""
    output: Path = options.output
    with cli.alone(output.parent, output=output, doing=f"packing {output.name} in", name=f".{output.name}.lock"):
        _pack(options)


def _pack(options: argparse.Namespace) -> None:
    start = time.perf_counter()
    demos = dataset.pack(
        options.demonstrations,
        options.output,
        suite=options.suite,
        cameras=options.cameras,
        image_size=options.image_size,
        action_key=options.action_key,
        drop_noops=options.drop_noops,
        proprio=options.proprio,
        pictures=options.pictures,
        max_demos_per_task=options.max_demos_per_task,
        num_workers=options.num_workers,
    )
    logger.info(
        "packed %d demonstrations of %d tasks, %d frames, in %.0f s: %s",
        len(demos.demo_lengths_D),
        len(demos.languages),
        demos.num_frames,
        time.perf_counter() - start,
        options.output,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    return cli.run_command(
        parser(), run, arguments, interrupted=lambda _: "nothing was written; the same command starts again"
    )


if __name__ == "__main__":
    sys.exit(main())
