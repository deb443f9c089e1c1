"""Loss functions of the continual-learning methods that replay demonstrations.

Shapes: B samples, T action tokens of a chunk, V action bins.
"""

import torch
from torch import Tensor
from torch.nn import functional


def expert_cross_entropy(logits_BTV: Tensor, bins_BT: Tensor) -> Tensor:
    """Mean negative log-probability of the expert's bins, nats per token, at temperature 1 (experience replay,
    arXiv:1811.11682, with demonstrations for a memory).

    Only the bins compete: logits of other words of the vocabulary take no part.
    """
    return functional.cross_entropy(logits_BTV.flatten(0, 1).float(), bins_BT.flatten())


def logits_mse(logits_BTV: Tensor, reference_BTV: Tensor) -> Tensor:
    """Mean squared distance to logits remembered from before (dark experience replay, arXiv:2004.07211), raw and
    before any temperature."""
    return torch.mean((logits_BTV.float() - reference_BTV.float()) ** 2)
