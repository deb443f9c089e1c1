"""Offline numbers of a policy on held-out demonstrations: loss, accuracy and action error.

They compare trainings of one kind; success comes only from running the policy in the environment.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from openvla_oft.data.batches import Batch, DeviceData
from openvla_oft.data.dataset import DemonstrationSet, Split
from openvla_oft.model.learner import Learner
from openvla_oft.torch_utils.distributed import Distributed
from openvla_oft.train.objectives import Objective


def prediction_of(learner: Callable[..., Tensor], batch: Batch, pixel_values: Tensor) -> Tensor:
    """Logits (B, T, V) or normalised actions (B, C, A) of a batch with these images.

    Those of an autoregressive policy are after the expert's tokens.
    """
    return learner(
        batch.input_ids_BL,
        batch.attention_mask_BL,
        pixel_values,
        batch.targets_BT,
        batch.proprio_BP,
        padded=batch.padded,
    )


@torch.no_grad()
def evaluate(
    learner: Callable[..., Tensor],
    data: DeviceData,
    frames: Tensor,
    *,
    objective: Objective,
    bf16: bool,
    batch_size: int,
    distributed: Distributed | None = None,
) -> dict[str, float]:
    """Means over the counted targets of the given frames (indices in CPU memory), by the objective's names.

    Images are as the policy sees them when it acts.

    Collective where ``distributed`` is given: every rank takes its share of the batches, all of them get the result.
    """
    distributed = distributed or Distributed()
    totals: dict[str, Tensor] = {}
    batches = frames.split(batch_size)
    # Sharded weights are gathered by all ranks together, so each runs equally many batches; spare ones weigh nothing.
    num_rounds = -(-len(batches) // distributed.world_size)
    for number in range(distributed.rank * num_rounds, (distributed.rank + 1) * num_rounds):
        weight = float(number < len(batches))
        batch = data.batch(batches[min(number, len(batches) - 1)])
        pixel_values = data.to_pixel_values(data.acting_pixels(batch.images_BNHWC))
        with torch.autocast(data.device.type, dtype=torch.bfloat16, enabled=bf16):
            prediction = prediction_of(learner, batch, pixel_values)
        for name, values, mask in objective.measure(prediction, batch):
            weights = weight * mask.to(torch.float64)
            sums = torch.stack([(values.to(torch.float64) * weights).sum(), weights.sum()])
            totals[name] = totals[name] + sums if name in totals else sums
    if not totals:
        return {}
    sums_M2 = distributed.total(torch.stack(list(totals.values())))
    return {name: float(total / count.clamp_min(1)) for name, (total, count) in zip(totals, sums_M2, strict=True)}


def evaluate_per_task(
    learner: Learner,
    data: DeviceData,
    demos: DemonstrationSet,
    split: Split,
    *,
    objective: Objective,
    bf16: bool,
    batch_size: int,
) -> dict[str, dict[str, float]]:
    """Numbers on every held-out frame of each task."""
    tasks_V = demos.frame_tasks()[split.validation_frames]
    results = {}
    for task, language in enumerate(demos.languages):
        frames = torch.from_numpy(split.validation_frames[tasks_V == task])
        if frames.numel():
            results[language] = evaluate(learner, data, frames, objective=objective, bf16=bf16, batch_size=batch_size)
    return results
