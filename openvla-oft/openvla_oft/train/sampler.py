"""The order of frames and the random numbers of a step, as functions of the seed and the step alone.

So a resumed run goes on exactly where it stopped, and every rank of a group knows the whole batch without being told.
"""

import hashlib

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def derived_seed(seed: int, purpose: str, index: int) -> int:
    """A seed for one purpose and step; neighbouring steps get unrelated ones."""
    digest = hashlib.blake2b(f"{seed}/{purpose}/{index}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1  # torch takes 63 bits


class DataOrder:
    """Every frame once per pass, each pass in a new order; batches run over the ends of passes."""

    def __init__(self, frames: NDArray[np.int64], *, batch_size: int, seed: int) -> None:
        if len(frames) == 0:
            raise ValueError("no training frames")
        self.frames = torch.from_numpy(frames)
        self.batch_size = batch_size
        self.seed = seed
        self._passes: dict[int, Tensor] = {}

    def batch(self, step: int) -> Tensor:
        """Frame indices (B,) of a step, int64 in CPU memory."""
        start, count = step * self.batch_size, len(self.frames)
        parts, position = [], start
        while position < start + self.batch_size:
            number, first = divmod(position, count)
            part = self._pass(number)[first : first + start + self.batch_size - position]
            parts.append(part)
            position += len(part)
        return torch.cat(parts)

    def _pass(self, number: int) -> Tensor:
        if number not in self._passes:
            generator = torch.Generator().manual_seed(derived_seed(self.seed, "order", number))
            # A prefetched batch may be of the next pass already: keep two.
            self._passes = {kept: order for kept, order in self._passes.items() if kept >= number - 1}
            self._passes[number] = self.frames[torch.randperm(len(self.frames), generator=generator)]
        return self._passes[number]
