"""Token cross-entropy over action bins, hard or smoothed over neighbouring bins.

Shapes: B samples, T = 56 action tokens, V = 256 bin columns.
"""

import torch
from torch import Tensor, nn


def soft_label_table(num_bins: int, *, sigma: float) -> Tensor | None:
    """Row v is the target distribution of bin v: a Gaussian of ``sigma`` bins, cut at the ends and summing to 1.

    Bins are ordinal: hitting the neighbour is nearly right. Smoothing says so, and makes the learnt distributions
    narrow bells, from which sampling at a temperature explores nearby actions rather than any action.
    None for sigma 0 (hard labels).
    """
    if sigma < 0:
        raise ValueError(f"label sigma {sigma} must not be negative (in bins; 0 = hard labels)")
    if sigma == 0:
        return None
    bins_V = torch.arange(num_bins, dtype=torch.float32)
    distances_VV = bins_V[:, None] - bins_V
    return torch.softmax(-0.5 * (distances_VV / sigma) ** 2, dim=1)


def token_losses(logits_BTV: Tensor, targets_BT: Tensor, *, table_VV: Tensor | None) -> Tensor:
    """Cross-entropy of every token (B, T); minimal value is the entropy of the smoothed labels, 0 for hard ones."""
    if table_VV is None:
        return nn.functional.cross_entropy(logits_BTV.float().transpose(1, 2), targets_BT, reduction="none")
    return -(table_VV[targets_BT] * nn.functional.log_softmax(logits_BTV.float(), dim=-1)).sum(dim=-1)


def token_cross_entropy(logits_BTV: Tensor, targets_BT: Tensor, mask_BT: Tensor, *, table_VV: Tensor | None) -> Tensor:
    """Mean over the masked-in tokens."""
    losses_BT = token_losses(logits_BTV, targets_BT, table_VV=table_VV)
    weights_BT = mask_BT.to(losses_BT.dtype)
    return (losses_BT * weights_BT).sum() / weights_BT.sum().clamp_min(1)
