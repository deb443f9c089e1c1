"""Advantages, and which groups carry a learning signal.

``E`` episodes, ``G`` groups sharing an initial state, ``N`` rollouts per group.
"""

import torch
from torch import Tensor


def group_advantages(returns_E: Tensor, group_E: Tensor, *, normalize: bool = True, eps: float = 1e-6) -> Tensor:
    """Centre each episode's return on its group and divide by the group's spread (GRPO, arXiv:2402.03300).

    group_E holds the group number of each episode; groups may have different sizes, and a group of one episode gets
    advantage zero, since it has nothing to be compared with. The spread is the unbiased standard deviation. Without
    ``normalize`` the returns themselves are given back.
    """
    if returns_E.shape != group_E.shape or returns_E.ndim != 1:
        raise ValueError(f"returns {tuple(returns_E.shape)} and groups {tuple(group_E.shape)} must be equal vectors")
    if not normalize:
        return returns_E
    _, slot_E = torch.unique(group_E, return_inverse=True)
    size_G = torch.bincount(slot_E).to(returns_E.dtype)
    mean_G = torch.zeros_like(size_G).index_add_(0, slot_E, returns_E) / size_G
    centered_E = returns_E - mean_G[slot_E]
    variance_G = torch.zeros_like(size_G).index_add_(0, slot_E, centered_E**2) / (size_G - 1).clamp(min=1)
    return centered_E / (variance_G.sqrt()[slot_E] + eps)


def informative_groups(returns_E: Tensor, group_E: Tensor, *, lower: float, upper: float) -> Tensor:
    """Which episodes belong to a group whose mean return lies within ``[lower, upper]``, as a boolean vector.

    A group that always or never succeeds has no advantage to learn from (dynamic sampling, DAPO, arXiv:2503.14476).
    """
    _, slot_E = torch.unique(group_E, return_inverse=True)
    size_G = torch.bincount(slot_E).to(returns_E.dtype)
    mean_G = torch.zeros_like(size_G).index_add_(0, slot_E, returns_E) / size_G
    kept_G = (mean_G >= lower) & (mean_G <= upper)
    return kept_G[slot_E]
