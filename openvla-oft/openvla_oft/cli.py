"""What the package's command lines share: data arguments, logging, and exit codes."""

import argparse
import logging
import math
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch

from libero_runtime.commands import naming, system_message
from libero_runtime.cpus import num_cpus
from libero_runtime.folder_lock import LOCK_FILE, only_one
from openvla_oft.data.images import PICTURES

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 128 + signal.SIGINT
"""As shells give it to a command that Ctrl-C ended."""


def add_data_arguments(parser: argparse.ArgumentParser) -> None:
    """Options that say which demonstrations are read, and how."""
    data = parser.add_argument_group("demonstrations")
    data.add_argument(
        "--demonstrations",
        type=Path,
        required=True,
        help="folder of LIBERO HDF5 files or of RLDS shards, or one written by openvla_oft.pack",
    )
    data.add_argument(
        "--suite",
        default="libero_spatial",
        help="subfolder of the demonstrations and name of the statistics; several with commas between",
    )
    data.add_argument(
        "--cameras",
        type=lambda text: tuple(text.split(",")),
        default=("agentview",),
        help="comma-separated: agentview, eye_in_hand (default: agentview)",
    )
    data.add_argument("--action-key", default="actions", help="dataset of each demonstration that holds the labels")
    data.add_argument(
        "--drop-noops", action="store_true", help="leave out steps that move nothing and keep the gripper as it is"
    )
    data.add_argument("--proprio", action="store_true", help="read what the robot feels, too (training: --layout oft)")
    data.add_argument(
        "--pictures",
        choices=PICTURES,
        default="rl",
        help="how pictures come to the policy's size: as in reinforcement learning, or as in the OpenVLA-OFT "
        "repository, trained without or with its random crops (packing: stored alike)",
    )
    data.add_argument("--max-demos-per-task", type=int, default=None)
    data.add_argument("--num-workers", type=int, default=num_cpus(), help="processes that read (0: none)")


def use_our_cpus() -> None:
    """Let torch use no more threads than there are CPUs for this process; it does not know of control groups."""
    torch.set_num_threads(min(torch.get_num_threads(), num_cpus()))


@contextmanager
def alone(folder: Path, *, output: Path, doing: str, name: str = LOCK_FILE) -> Iterator[None]:
    """While one command makes ``output`` in a folder; see ``only_one``.

    Raises:
        ValueError: another process does, or the folder cannot be made.
    """
    lock = only_one(folder, doing=doing, advice="Wait for it, or give another --output", name=name)
    with ExitStack() as stack:
        try:
            stack.enter_context(lock)
        except OSError as error:
            raise ValueError(f"--output {output} cannot be made ({error}); give another folder") from error
        yield


def run_command(
    parser: argparse.ArgumentParser,
    run: Callable[[argparse.Namespace], None],
    arguments: Sequence[str] | None,
    *,
    interrupted: Callable[[argparse.Namespace], str],
) -> int:
    """Parse and run. A user's error becomes one message on stderr and exit code 2, Ctrl-C what ``interrupted`` says.

    ``command`` of the options is the command line, ``given`` the names of the options that stand in it.
    """
    options = parser.parse_args(arguments)
    options.command = list(sys.argv[1:] if arguments is None else arguments)
    options.given = _given(parser, options)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s", datefmt="%H:%M:%S")
    try:
        _check_numbers(options)
        with naming(options.output):
            run(options)
    except Exception as error:
        message = str(error) if isinstance(error, ValueError) else system_message(error)
        if message is None:
            raise
        sys.stderr.write(f"error: {message}\n")
        return EXIT_USER_ERROR
    except KeyboardInterrupt:
        if os.environ.get("RANK", "0") == "0":
            sys.stderr.write(f"interrupted: {interrupted(options)}\n")
        return EXIT_INTERRUPTED
    return 0


def _given(parser: argparse.ArgumentParser, options: argparse.Namespace) -> frozenset[str]:
    """Options of the command line, whether or not they have the value that they have by default."""
    absent = object()
    parser.set_defaults(**dict.fromkeys(vars(options), absent))
    parsed = vars(parser.parse_args(options.command))
    return frozenset(name for name, value in parsed.items() if value is not absent)


def _check_numbers(options: argparse.Namespace) -> None:
    """Python reads "nan" and "inf" as numbers, and no option means anything by them."""
    for name, value in vars(options).items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"--{name.replace('_', '-')} {value} must be a finite number")
    if options.num_workers < 0:
        raise ValueError(f"--num-workers {options.num_workers} must not be negative; 0 reads without any")
