"""The samples of every step: which frames, with which random numbers, in which micro-batches.

They depend on the seed and the step alone, so that accumulation, several processes and an interruption change nothing
but rounding. Shapes: B samples of a step over all processes, T action tokens.
"""

import torch
from torch import Tensor

from openvla_oft.data.augment import PictureChange
from openvla_oft.data.batches import Batch, DeviceData
from openvla_oft.data.dataset import Split
from openvla_oft.torch_utils.distributed import Ranks
from openvla_oft.train.config import TrainConfig
from openvla_oft.train.objectives import Objective
from openvla_oft.train.sampler import DataOrder, derived_seed

Sample = tuple[Batch, PictureChange]
"""A micro-batch and what happens to its pictures."""


class Samples:
    """This rank's micro-batches of every step."""

    def __init__(self, config: TrainConfig, data: DeviceData, split: Split, objective: Objective, ranks: Ranks) -> None:
        self.config = config
        self.data = data
        self.objective = objective
        self.ranks = ranks
        self.micro_batch = config.micro_batch(ranks.world_size)
        self.order = DataOrder(split.train_frames, batch_size=config.batch_size, seed=config.seed)
        self._generator = torch.Generator(data.device)

    def step(self, step: int) -> tuple[list[Sample], Tensor]:
        """Micro-batches with what happens to their pictures, and the number of counted targets of the whole batch."""
        share = self.ranks.share(self.config.batch_size)
        frames_B = self.order.batch(step)
        change = self._draw(step).part(share)
        batch = self.data.batch(frames_B[share], change.shift_BN2)
        self.data.frames.prefetch(self.order.batch(step + 1)[share])
        parts = [slice(i, i + self.micro_batch) for i in range(0, len(batch), self.micro_batch)]
        inside_BT = self.data.inside_FT[frames_B.to(self.data.device)]
        num_targets = self.objective.counted(inside_BT).sum().clamp_min(1)
        # For a fixed seed the same whatever ran before, as dropout draws from torch's own generator.
        torch.manual_seed(derived_seed(self.config.seed, f"dropout/{self.ranks.rank}", step))
        return [(batch.part(part), change.part(part)) for part in parts], num_targets

    def first(self) -> Sample:
        """A micro-batch to compile and check with."""
        return self.step(0)[0][0]

    def _draw(self, step: int) -> PictureChange:
        self._generator.manual_seed(derived_seed(self.config.seed, "augment", step))
        frames = self.data.frames
        return self.config.augment.draw(
            num_samples=self.config.batch_size,
            num_cameras=frames.num_cameras,
            image_size=frames.image_size,
            generator=self._generator,
        )
