"""The short command for demonstrations of a suite.

    python -m libero_runtime.demos libero_goal --episodes 50 --out DIR

The same as `libero_runtime.demonstrations`, whose other options it takes too: parallel, with progress, and an
interrupted run continues when the same command is given again.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from libero_runtime.demonstrations import add_options, run
from libero_runtime.demos.episodes import MAX_STEPS
from libero_runtime.number_lists import at_least_one


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m libero_runtime.demos",
        description="Record demonstrations of the scripted expert in LIBERO's HDF5 layout, one file per task.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("suite", metavar="SUITE", help=f"task suite: {', '.join(MAX_STEPS)}")
    parser.add_argument(
        "--episodes",
        dest="episodes_per_task",
        type=at_least_one,
        default=50,
        help="demonstrations to keep of each task",
    )
    parser.add_argument("--out", dest="output", type=Path, required=True, help="folder for the files")
    add_options(parser)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    return run(_parser().parse_args(arguments))


if __name__ == "__main__":
    sys.exit(main())
