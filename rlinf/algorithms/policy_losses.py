"""Clipped policy losses.

``S`` chunk samples, ``C`` actions per chunk, ``A`` action dimensions (tokens) per action.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class PolicyLoss:
    """A weighted sum over tokens, and sums for its metrics; each may be added over micro-batches and ranks."""

    loss: Tensor
    clipped_tokens: Tensor
    approx_kl_sum: Tensor
    gap_sum: Tensor
    num_tokens: Tensor


def clipped_policy_loss(
    logprobs_SCA: Tensor,
    old_logprobs_SCA: Tensor,
    advantages_S: Tensor,
    weights_SC: Tensor,
    *,
    clip_low: float,
    clip_high: float,
    dual_clip: float | None = None,
    ratio: str = "token",
    behaviour_SCA: Tensor | None = None,
) -> PolicyLoss:
    """PPO's clipped surrogate per token (arXiv:1707.06347) with separate bounds (clip-higher, arXiv:2503.14476).

    Each token's loss is ``max(-a r, -a clip(r, 1 - clip_low, 1 + clip_high))`` for ratio ``r`` and advantage ``a``.
    weights_SC weighs an action's tokens and is zero for actions that were not executed; see ``token_weights``.
    dual_clip: above 1; where ``a < 0`` the loss is at most ``-a dual_clip``, however large ``r`` is (dual clip,
        arXiv:1912.09729).
    ratio: ``"token"``, each token's own; ``"sequence"``, for all tokens of a chunk the geometric mean of theirs (GSPO,
        arXiv:2507.18071, with a chunk, which answers one observation, as its sequence).
    behaviour_SCA: weights of tokens for having been sampled by an older policy than the one that ``old_logprobs_SCA``
        are of; see ``behaviour_weights``.
    ``approx_kl_sum`` adds ``r - 1 - log r`` over unmasked tokens (Schulman's k3 estimator), ``gap_sum`` ``|log r|``,
    both of each token's own ratio.
    """
    if ratio not in ("token", "sequence"):
        raise ValueError(f"ratio must be 'token' or 'sequence', got {ratio!r}")
    mask_SCA = (weights_SC > 0)[..., None].expand_as(logprobs_SCA)
    # Masked before the exponential: an overflow outside the mask would turn into NaN gradients inside it.
    log_ratio_SCA = torch.where(mask_SCA, logprobs_SCA - old_logprobs_SCA, torch.zeros_like(logprobs_SCA))
    own_ratio_SCA = log_ratio_SCA.exp()
    ratio_SCA = own_ratio_SCA if ratio == "token" else _sequence_ratio(log_ratio_SCA, mask_SCA)
    advantages_S11 = advantages_S[:, None, None]
    unclipped_SCA = -advantages_S11 * ratio_SCA
    clipped_SCA = -advantages_S11 * ratio_SCA.clamp(1 - clip_low, 1 + clip_high)
    loss_SCA = torch.maximum(unclipped_SCA, clipped_SCA)
    if dual_clip is not None:
        loss_SCA = torch.where(advantages_S11 < 0, loss_SCA.minimum(-advantages_S11 * dual_clip), loss_SCA)
    weighted_SCA = loss_SCA * weights_SC[..., None]
    if behaviour_SCA is not None:
        weighted_SCA = weighted_SCA * torch.where(mask_SCA, behaviour_SCA, torch.zeros_like(behaviour_SCA))
    with torch.no_grad():
        kl_SCA = own_ratio_SCA - 1 - log_ratio_SCA  # zero where masked
        clipped = (loss_SCA != unclipped_SCA) & mask_SCA
        gap = log_ratio_SCA.abs().sum()
    return PolicyLoss(weighted_SCA.sum(), clipped.sum(), kl_SCA.sum(), gap, mask_SCA.sum())


def behaviour_weights(proximal_SCA: Tensor, behaviour_SCA: Tensor, *, cap: float) -> Tensor:
    """How much likelier tokens are under the policy that an update starts from than under the one that sampled them.

    With these weights the clipped surrogate keeps close to the former, while its expectation is over what it would
    have sampled (decoupled objective, arXiv:2505.24298). Both are log-probabilities. Larger weights count as ``cap``
    (truncated importance sampling, arXiv:1802.01561).
    """
    return (proximal_SCA - behaviour_SCA).exp().clamp(max=cap)


def imitation_loss(logprobs_SCA: Tensor, weights_SC: Tensor) -> PolicyLoss:
    """Weighted sum of negative log-probabilities (behaviour cloning); weights_SC as in ``clipped_policy_loss``.

    It knows no other policy: nothing is clipped, and nothing is said of a distance.
    """
    mask_SCA = (weights_SC > 0)[..., None].expand_as(logprobs_SCA)
    # Masked before the product: minus infinity times a weight of zero is NaN.
    kept_SCA = torch.where(mask_SCA, logprobs_SCA, torch.zeros_like(logprobs_SCA))
    none = torch.zeros((), device=logprobs_SCA.device)
    return PolicyLoss(-(kept_SCA * weights_SC[..., None]).sum(), none, none, none, mask_SCA.sum())


def _sequence_ratio(log_ratio_SCA: Tensor, mask_SCA: Tensor) -> Tensor:
    """The geometric mean of a chunk's ratios, at each of its tokens; 1 where none was executed."""
    count_S = mask_SCA.sum((1, 2)).clamp(min=1)
    return (log_ratio_SCA.sum((1, 2)) / count_S).exp()[:, None, None].expand_as(log_ratio_SCA)


def token_weights(
    executed_SC: Tensor, episode_S: Tensor, *, num_action_dims: int, num_episodes: int, by: str = "episode"
) -> Tensor:
    """Weights that turn a sum over tokens into a mean, float32 of shape (S, C).

    ``by="episode"``: every episode counts the same however long it is, its tokens share its weight
    (``1 / (num_episodes * length * A)``; the published recipe). ``by="token"``: every executed token counts the same.
    num_episodes is the number of episodes of the whole collection, also of those without samples here.
    """
    if by == "token":
        return executed_SC.float() / (executed_SC.sum().clamp(min=1) * num_action_dims)
    if by != "episode":
        raise ValueError(f"loss aggregation must be 'episode' or 'token', got {by!r}")
    length_E = torch.zeros(num_episodes, device=executed_SC.device).index_add_(0, episode_S, executed_SC.sum(1).float())
    share_E = 1.0 / (length_E.clamp(min=1) * num_action_dims * num_episodes)
    return executed_SC.float() * share_E[episode_S][:, None]


def masked_entropy_sum(entropy_SCA: Tensor, weights_SC: Tensor) -> Tensor:
    """Weighted sum of token entropies with the weights of the policy loss."""
    return (entropy_SCA * weights_SC[..., None]).sum()
