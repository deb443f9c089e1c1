"""What the package's command lines share: logging, exit codes, and nobody else at the same output."""

import argparse
import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from libero_runtime import commands
from libero_runtime.cpus import num_cpus
from libero_runtime.files import only_one
from libero_runtime.options import Given, add_options, given_in

ADVICE = "Wait for it, or give another --output"
"""For who finds another process at work."""


def use_our_cpus() -> None:
    """Let torch use no more threads than there are CPUs for this process; it does not know of control groups."""
    torch.set_num_threads(min(torch.get_num_threads(), num_cpus()))


@contextmanager
def making(output: Path, *, doing: str) -> Iterator[None]:
    """While one command makes an output that is not there yet.

    Raises:
        ValueError: it is there, or another process makes it.
    """
    with only_one(output.parent, doing=f"{doing} {output.name} in", advice=ADVICE, name=f".{output.name}.lock"):
        if output.exists():
            raise ValueError(f"--output {output} exists; remove it or give another folder")
        yield


def run_command(
    module: str,
    options: Mapping[type, str | None],
    run: Callable[[Given, Sequence[str]], None],
    arguments: Sequence[str] | None,
    *,
    description: str | None,
    interrupted: Callable[[Path], str] = lambda _: "nothing was written; the same command starts again",
) -> int:
    """``python -m MODULE``: run with what was given and the whole command line; returns the exit code.

    A user's error becomes one message on stderr and exit code 2, Ctrl-C what ``interrupted`` says of --output.

    options: dataclasses of all that can be given, --output among it, and the titles of their groups in --help.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m {module}", description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for kind, title in options.items():
        add_options(parser, kind, title)
    command = list(sys.argv[1:] if arguments is None else arguments)
    given = given_in(parser.parse_args(command))
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s", datefmt="%H:%M:%S")
    output: Path = given["output"]

    def work() -> int:
        with commands.naming(output):
            run(given, command)
        return 0

    return commands.run_command(work, interrupted=lambda: interrupted(output))
