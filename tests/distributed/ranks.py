"""Starting the ranks of a test."""

import multiprocessing
import os
import pickle
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from rlinf.engines.distributed import free_port, join_group, leave_group

REPOSITORY = Path(__file__).resolve().parents[2]
TIMEOUT_S = 300
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["tests.distributed.preloaded"])  # imports take most of a rank's time: once for all


def run_ranks(function: Callable[..., Any], world_size: int, **arguments: Any) -> list[Any]:
    """What ``function(mesh, **arguments)`` returns on each rank of a group; a module has it, as pickle wants."""
    port = free_port()
    with TemporaryDirectory() as name:
        folder = Path(name)
        each = [(function, rank, world_size, port, arguments, folder) for rank in range(world_size)]
        if not run_together([(_run_rank, one) for one in each]):
            raise AssertionError("\n".join(path.read_text()[-3000:] for path in sorted(folder.glob("*.txt"))))
        return [pickle.loads((folder / f"{rank}.pickle").read_bytes()) for rank in range(world_size)]


def run_together(calls: Sequence[tuple[Callable[..., None], tuple[Any, ...]]]) -> bool:
    """Call functions in a process each; whether all of them succeeded. The first that fails ends the others."""
    ranks = [FORKS.Process(target=function, args=arguments) for function, arguments in calls]
    for rank in ranks:
        rank.start()
    deadline = time.monotonic() + TIMEOUT_S
    while any(rank.is_alive() for rank in ranks) and time.monotonic() < deadline:
        if any(rank.exitcode for rank in ranks):
            break  # others would wait for it
        time.sleep(0.02)
    for rank in ranks:
        rank.kill()
        rank.join()
    return not any(rank.exitcode for rank in ranks)


def _run_rank(
    function: Callable[..., Any], rank: int, world_size: int, port: int, arguments: dict[str, Any], folder: Path
) -> None:
    write_to(folder / f"{rank}.txt")
    address = f"tcp://127.0.0.1:{port}"
    mesh = join_group(rank=rank, world_size=world_size, init_method=address, own_address="127.0.0.1")
    (folder / f"{rank}.pickle").write_bytes(pickle.dumps(function(mesh, **arguments)))
    # Not by the interpreter's exit: there torch 2.13 now and then aborts in a thread of gloo ("terminate called without
    # an active exception"), with everything done.
    leave_group()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def write_to(path: Path) -> None:
    """What this process writes goes there; it computes on one thread."""
    with path.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    torch.set_num_threads(1)
