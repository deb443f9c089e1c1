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
    if not normalize:
        return returns_E
    slot_E, size_G, mean_G = _group_means(returns_E, group_E)
    centered_E = returns_E - mean_G[slot_E]
    variance_G = torch.zeros_like(size_G).index_add_(0, slot_E, centered_E**2) / (size_G - 1).clamp(min=1)
    return centered_E / (variance_G.sqrt()[slot_E] + eps)


def leave_one_out_advantages(returns_E: Tensor, group_E: Tensor) -> Tensor:
    """Each episode's return less the mean of the others in its group, not divided by their spread (RLOO,
    arXiv:2402.14740): an unbiased baseline, under which easy and hard groups weigh as their returns differ.

    A group of one episode gets advantage zero.
    """
    slot_E, size_G, mean_G = _group_means(returns_E, group_E)
    return (returns_E - mean_G[slot_E]) * (size_G / (size_G - 1).clamp(min=1))[slot_E]


def _group_means(returns_E: Tensor, group_E: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """For each episode the place of its group, and the groups' sizes and mean returns."""
    if returns_E.shape != group_E.shape or returns_E.ndim != 1:
        raise ValueError(f"returns {tuple(returns_E.shape)} and groups {tuple(group_E.shape)} must be equal vectors")
    _, slot_E = torch.unique(group_E, return_inverse=True)
    size_G = torch.bincount(slot_E).to(returns_E.dtype)
    return slot_E, size_G, torch.zeros_like(size_G).index_add_(0, slot_E, returns_E) / size_G


def informative_groups(returns_E: Tensor, group_E: Tensor, *, lower: float, upper: float) -> Tensor:
    """Which episodes belong to a group whose mean return lies within ``[lower, upper]``, as a boolean vector.

    A group that always or never succeeds has no advantage to learn from (dynamic sampling, DAPO, arXiv:2503.14476).
    """
    slot_E, _, mean_G = _group_means(returns_E, group_E)
    kept_G = (mean_G >= lower) & (mean_G <= upper)
    return kept_G[slot_E]


def generalized_advantages(
    rewards_S: Tensor,
    values_S: Tensor,
    episode_S: Tensor,
    *,
    gamma: float,
    gae_lambda: float,
    final_values_E: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Generalized advantage estimation over episodes of different lengths (GAE, arXiv:1506.02438).

    ``S`` steps of all episodes, those of one episode in order of time. values_S: value before each step.
    final_values_E: value of what comes after each episode's last step; without it nothing comes.
    Returns advantages_S and the returns that values should come closer to, ``advantages_S + values_S``.
    """
    if not rewards_S.shape == values_S.shape == episode_S.shape or rewards_S.ndim != 1:
        shapes = [tuple(tensor.shape) for tensor in (rewards_S, values_S, episode_S)]
        raise ValueError(f"rewards, values and episodes must be equal vectors, got {shapes}")
    length_E = torch.bincount(episode_S, minlength=0 if final_values_E is None else len(final_values_E))
    order_S = torch.argsort(episode_S, stable=True)
    start_E = length_E.cumsum(0) - length_E
    step_S = torch.empty_like(order_S)
    step_S[order_S] = torch.arange(len(order_S)) - start_E[episode_S[order_S]]
    num_episodes, horizon = len(length_E), int(length_E.max()) if len(length_E) else 0
    # Padded on the right; what follows an episode's last step is its final value.
    delta_ET = rewards_S.new_zeros(num_episodes, horizon)
    values_ET = values_S.new_zeros(num_episodes, horizon + 1)
    values_ET[episode_S, step_S] = values_S
    if final_values_E is not None:
        values_ET[torch.arange(num_episodes), length_E] = final_values_E
    delta_ET[episode_S, step_S] = rewards_S + gamma * values_ET[episode_S, step_S + 1] - values_S
    running_E = rewards_S.new_zeros(num_episodes)
    for step in reversed(range(horizon)):
        running_E = delta_ET[:, step] + gamma * gae_lambda * running_E
        delta_ET[:, step] = running_E
    advantages_S = delta_ET[episode_S, step_S]
    return advantages_S, advantages_S + values_S


def standardize(values_S: Tensor, kept_S: Tensor, *, eps: float = 1e-5) -> Tensor:
    """Centre on the mean of the kept entries and divide by their spread (population standard deviation)."""
    kept = values_S[kept_S]
    return (values_S - kept.mean()) / (kept.std(correction=0) + eps)
