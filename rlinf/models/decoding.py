"""From logits over action bins to sampled chunks and back: what all policies over binned actions share.

T action tokens of a sample are C actions x A dimensions in order; V bins.
"""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlinf.models.policy import PolicyEval, PolicyOutput
from rlinf.models.transfer import Received, sent
from transformers_openvla_oft import (
    ActionTokenMap,
    action_entropy,
    action_log_probs,
    finite_rows,
    sample_bins,
)


def describe_origin(weights: Path, adapter: Path | None = None) -> str:
    """What a policy was loaded from, for messages."""
    return f"the checkpoint {weights}" + (f" with the adapter {adapter}" if adapter is not None else "")


def sample_chunk(
    logits_BTV: Tensor,
    actions: ActionTokenMap,
    *,
    temperature: float,
    uniforms_BCA: NDArray[np.float64],
    origin: str,
    values_B: Tensor | None = None,
) -> PolicyOutput:
    """Sample a chunk, all tokens at once, by inverting the cumulative distribution; see ``sample_bins``."""
    uniforms_BT = sent(torch.from_numpy(uniforms_BCA), logits_BTV.device).flatten(1)
    bins_BT = sample_bins(logits_BTV, uniforms_BT, temperature=temperature, check_finite=False)
    return sampled_chunk(logits_BTV, bins_BT, actions, temperature=temperature, origin=origin, values_B=values_B)


def sampled_chunk(
    logits_BTV: Tensor,
    bins_BT: Tensor,
    actions: ActionTokenMap,
    *,
    temperature: float,
    origin: str,
    values_B: Tensor | None = None,
) -> PolicyOutput:
    """The output for bins that were sampled; log-probabilities are those at ``temperature`` (at 1 for the arg max).

    origin: what the policy was loaded from.
    """
    logprobs_BT = action_log_probs(logits_BTV, bins_BT, temperature=temperature or 1.0)
    shape = (len(bins_BT), -1, actions.action_dim)
    env_actions_BT = actions.env_actions(bins_BT).flatten(1)
    finite_B1 = finite_rows(logits_BTV)[:, None]
    packed = torch.cat([env_actions_BT, finite_B1.to(env_actions_BT.dtype)], dim=1)
    return PolicyOutput(bins_BT.view(shape), logprobs_BT.view(shape), Received(packed), origin, values_B)


def evaluate_chunk(
    logits_BTV: Tensor, bins_BCA: Tensor, *, temperature: float, values_B: Tensor | None = None
) -> PolicyEval:
    """Log-probabilities of ``bins_BCA`` and entropies at ``temperature``, differentiable."""
    logprobs_BT = action_log_probs(logits_BTV, bins_BCA.flatten(1), temperature=temperature)
    entropy_BT = action_entropy(logits_BTV, temperature=temperature)
    return PolicyEval(logprobs_BT.view(bins_BCA.shape), entropy_BT.view(bins_BCA.shape), values_B)
