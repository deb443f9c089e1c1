"""``python -m openvla_oft.pack``: read demonstrations once and store the frames at the model's size.

Reading and resizing hundreds of thousands of images takes minutes; the packed folder is memory-mapped by
``python -m openvla_oft.finetune --demonstrations PACKED``, so that several trainings share it.
"""

import logging
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

from libero_runtime.options import Given, Option, build
from openvla_oft import cli
from openvla_oft.data import dataset
from openvla_oft.data.demonstration import DataOptions

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class PackOptions:
    """What is written."""

    output: Annotated[Path, Option("folder to write; must not exist")]
    image_size: Annotated[int, Option("side of the stored images in pixels")] = 128


def run(given: Given, command: Sequence[str]) -> None:
    """Pack as the options say."""
    options = build(PackOptions, given)
    data = replace(build(DataOptions, given), image_size=options.image_size)
    output, start = options.output, time.perf_counter()
    with cli.making(output, doing="packing"):
        demos = dataset.pack(data, output)
    logger.info(
        "packed %d demonstrations of %d tasks, %d frames, in %.0f s: %s",
        len(demos.demo_lengths_D),
        len(demos.languages),
        demos.num_frames,
        time.perf_counter() - start,
        output,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    options = {DataOptions: "demonstrations", PackOptions: None}
    return cli.run_command("openvla_oft.pack", options, run, arguments, description=__doc__)


if __name__ == "__main__":
    sys.exit(main())
