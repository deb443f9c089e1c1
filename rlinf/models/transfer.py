"""Copies between CPU and GPU that neither side waits for.

A GPU's owner waits for copies to and from ordinary memory, and until they are made gives it nothing else to do; so they
go through memory that is page-locked.
"""

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """A copy of a CPU's tensor on the device (on a CPU the tensor itself)."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


class Received:
    """Copies of tensors in CPU memory, which arrive when what makes the tensors is done."""

    def __init__(self, *tensors: Tensor) -> None:
        self._arrival: torch.cuda.Event | None = None
        self._copies = [tensor.detach() for tensor in tensors]
        if any(tensor.is_cuda for tensor in tensors):
            self._copies = [
                torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor, non_blocking=True)
                for tensor in self._copies
            ]
            self._arrival = torch.cuda.Event()
            self._arrival.record()

    def is_here(self) -> bool:
        """Whether ``arrays`` would not wait."""
        return self._arrival is None or self._arrival.query()

    def arrays(self) -> list[NDArray[Any]]:
        """The tensors as arrays; waits for them."""
        if self._arrival is not None:
            self._arrival.synchronize()
        return [copy.numpy() for copy in self._copies]
