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
    if logits_BTV.shape[:2] != bins_BT.shape:
        raise ValueError(f"logits {tuple(logits_BTV.shape)} and bins {tuple(bins_BT.shape)} are of different tokens")
    return functional.cross_entropy(logits_BTV.flatten(0, 1).float(), bins_BT.flatten())


def logits_mse(logits_BTV: Tensor, reference_BTV: Tensor) -> Tensor:
    """Mean squared distance to logits remembered from before (dark experience replay, arXiv:2004.07211), raw and
    before any temperature."""
    if logits_BTV.shape != reference_BTV.shape:
        raise ValueError(
            f"logits {tuple(logits_BTV.shape)} and reference logits {tuple(reference_BTV.shape)} differ in shape"
        )
    return torch.mean((logits_BTV.float() - reference_BTV.float()) ** 2)
