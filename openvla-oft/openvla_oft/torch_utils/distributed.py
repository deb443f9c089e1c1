"""The processes of one training: one alone, or those that ``torchrun`` started.

Everything in a group is either computed by every rank from the same inputs, or marked as collective.
"""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import NoReturn, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

_Result = TypeVar("_Result")
TIMEOUT = timedelta(hours=2)
"""Other ranks wait while rank 0 packs demonstrations or writes a checkpoint."""


@dataclass(frozen=True)
class Distributed:
    """This process among all; ``mesh`` is None where there is only one."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    mesh: DeviceMesh | None = None

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and messages."""
        return self.rank == 0

    def share(self, count: int) -> slice:
        """This rank's part of ``count`` things, which the ranks divide evenly."""
        size = count // self.world_size
        return slice(self.rank * size, (self.rank + 1) * size)

    def wait(self) -> None:
        """Until every rank is here. Collective."""
        if self.mesh is not None:
            dist.barrier()

    def in_turn(self, work: Callable[[], _Result]) -> _Result:
        """Do the same on every rank, one after the other. Collective."""
        results = []
        for turn in range(self.world_size):
            if turn == self.rank:
                results.append(work())
            self.wait()
        return results[0]

    def total(self, values: Tensor) -> Tensor:
        """The sum of every rank's ``values``. Collective."""
        if self.mesh is not None:
            dist.all_reduce(values)
        return values

    def agreed(self, value: float) -> float:
        """Rank 0's value, so that clocks decide alike everywhere. Collective."""
        if self.mesh is None:
            return value
        shared = torch.tensor([value], dtype=torch.float64)
        dist.broadcast(shared, src=0)
        return float(shared)


@contextmanager
def joined(device: str) -> Iterator[Distributed]:
    """Join the group that torchrun's environment describes, if there is one, and leave it at the end.

    An error does not wait for the others: torchrun ends them.
    """
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size == 1:
        yield Distributed()
        return
    on_gpu = device.startswith("cuda")
    local_rank = int(os.environ["LOCAL_RANK"])
    if on_gpu:
        torch.cuda.set_device(local_rank)
    dist.init_process_group("cpu:gloo,cuda:nccl" if on_gpu else "gloo", timeout=TIMEOUT)
    mesh = init_device_mesh("cuda" if on_gpu else "cpu", (world_size,))
    yield Distributed(rank=dist.get_rank(), world_size=world_size, local_rank=local_rank, mesh=mesh)
    dist.barrier()
    dist.destroy_process_group()


def end_process(code: int) -> NoReturn:
    """End this process with an exit code.

    A rank does not end by the interpreter's exit: there torch 2.13 now and then aborts in a thread of gloo
    ("terminate called without an active exception"), with everything done, and torchrun would call that a failure.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        sys.exit(code)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
