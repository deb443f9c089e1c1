"""The samples of every step: which frames, with which random numbers, in which micro-batches.

They depend on the seed and the step alone, so that a resumed run goes on exactly where it stopped, every rank of a
group knows the whole batch without being told, and accumulation, several processes and an interruption change nothing
but rounding. Shapes: B samples of a step over all processes, T action tokens.
"""

import hashlib

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from openvla_oft.data.augment import ImageChange
from openvla_oft.data.batches import Batch, DeviceData
from openvla_oft.data.dataset import Split
from openvla_oft.options import TrainConfig
from openvla_oft.torch_utils.distributed import Distributed
from openvla_oft.train.objectives import Objective

Sample = tuple[Batch, ImageChange]
"""A micro-batch and what happens to its images."""


def derived_seed(seed: int, purpose: str, index: int) -> int:
    """A seed for one purpose and step; neighbouring steps get unrelated ones."""
    digest = hashlib.blake2b(f"{seed}/{purpose}/{index}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1  # torch takes 63 bits


class DataOrder:
    """Every frame once per pass, each pass in a new order; batches run over the ends of passes."""

    def __init__(self, frames: NDArray[np.int64], *, batch_size: int, seed: int) -> None:
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


class Sampler:
    """This rank's micro-batches of every step."""

    def __init__(
        self, config: TrainConfig, data: DeviceData, split: Split, objective: Objective, distributed: Distributed
    ) -> None:
        self.config = config
        self.data = data
        self.objective = objective
        self.distributed = distributed
        self.micro_batch = config.micro_batch(distributed.world_size)
        self.order = DataOrder(split.train_frames, batch_size=config.batch_size, seed=config.seed)
        self._generator = torch.Generator(data.device)

    def step(self, step: int) -> tuple[list[Sample], Tensor]:
        """Micro-batches with what happens to their images, and the number of counted targets of the whole batch."""
        share = self.distributed.share(self.config.batch_size)
        frames_B = self.order.batch(step)
        change = self._draw(step).part(share)
        batch = self.data.batch(frames_B[share], change.shift_BN2)
        self.data.frames.prefetch(self.order.batch(step + 1)[share])
        parts = [slice(i, i + self.micro_batch) for i in range(0, len(batch), self.micro_batch)]
        inside_BT = self.data.inside_FT[frames_B.to(self.data.device)]
        num_targets = self.objective.counted(inside_BT).sum().clamp_min(1)
        # For a fixed seed the same whatever ran before, as dropout draws from torch's own generator.
        torch.manual_seed(derived_seed(self.config.seed, f"dropout/{self.distributed.rank}", step))
        return [(batch.part(part), change.part(part)) for part in parts], num_targets

    def _draw(self, step: int) -> ImageChange:
        self._generator.manual_seed(derived_seed(self.config.seed, "augment", step))
        frames = self.data.frames
        return self.config.augment.draw(
            num_samples=self.config.batch_size,
            num_cameras=frames.num_cameras,
            image_size=frames.image_size,
            generator=self._generator,
        )
