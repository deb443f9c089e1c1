"""Losses of the value function. ``S`` chunk samples."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class ValueLoss:
    """A weighted sum over samples, and how many were clipped; may be added over micro-batches and ranks."""

    loss: Tensor
    clipped_samples: Tensor
    num_samples: Tensor


def huber(error: Tensor, *, delta: float) -> Tensor:
    """Squared near zero, linear beyond ``delta`` (Huber 1964): ``e^2 / 2``, then ``delta (|e| - delta / 2)``."""
    size = error.abs()
    return torch.where(size < delta, 0.5 * error**2, delta * (size - 0.5 * delta))


def clipped_value_loss(
    values_S: Tensor,
    old_values_S: Tensor,
    returns_S: Tensor,
    weights_S: Tensor,
    *,
    value_clip: float,
    huber_delta: float,
) -> ValueLoss:
    """Huber distance to the returns, pessimistic about moving further than ``value_clip`` from the rollouts' values.

    The larger of the losses of the new value and of the clipped one counts (PPO's reference implementation;
    arXiv:2005.12729, section 3). weights_S is zero for samples that do not count.
    """
    moved_S = (values_S - old_values_S).clamp(-value_clip, value_clip)
    unclipped_S = huber(returns_S - values_S, delta=huber_delta)
    clipped_S = huber(returns_S - (old_values_S + moved_S), delta=huber_delta)
    mask_S = weights_S > 0
    loss_S = torch.maximum(unclipped_S, clipped_S) * weights_S
    with torch.no_grad():
        clipped = (clipped_S > unclipped_S) & mask_S
    return ValueLoss(loss_S.sum(), clipped.sum(), mask_S.sum())
