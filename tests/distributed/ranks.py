"""Starting the ranks of a test, and what their programs share."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from rlinf.engines.distributed import free_port, leave_group

REPOSITORY = Path(__file__).resolve().parents[2]


def run_ranks(program: str, world_size: int, arguments: Sequence[object]) -> None:
    """Run ``tests.distributed.<program> RANK WORLD_SIZE PORT *arguments`` once per rank; every one must exit with 0."""
    shared = [str(argument) for argument in (world_size, free_port(), *arguments)]
    ranks = [
        subprocess.Popen(
            [sys.executable, "-m", f"tests.distributed.{program}", str(rank), *shared],
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(world_size)
    ]
    outputs = [rank.communicate(timeout=300)[0] for rank in ranks]
    for rank, text in zip(ranks, outputs, strict=True):
        assert rank.returncode == 0, text[-3000:]


def finish_rank() -> None:
    """End a rank of a group, its results being written.

    Not by the interpreter's exit: there torch 2.13 now and then aborts in a thread of gloo ("terminate called without
    an active exception"), with everything done.
    """
    leave_group()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
