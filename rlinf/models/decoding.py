"""From logits over action bins to sampled chunks and back: what all policies over binned actions share.

T action tokens of a sample are C actions x A dimensions in order; V bins.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlinf.models.policy import PolicyEval, PolicyOutput
from transformers_openvla_oft import ActionTokenMap, action_entropy, action_log_probs, sample_bins


def sample_chunk(
    logits_BTV: Tensor, actions: ActionTokenMap, *, temperature: float, uniforms_BCA: NDArray[np.float64]
) -> PolicyOutput:
    """Sample a chunk, all tokens at once, by inverting the cumulative distribution; see ``sample_bins``."""
    uniforms_BT = torch.from_numpy(uniforms_BCA).to(logits_BTV.device).flatten(1)
    bins_BT = sample_bins(logits_BTV, uniforms_BT, temperature=temperature)
    return sampled_chunk(logits_BTV, bins_BT, actions, temperature=temperature)


def sampled_chunk(logits_BTV: Tensor, bins_BT: Tensor, actions: ActionTokenMap, *, temperature: float) -> PolicyOutput:
    """The output for bins that were sampled; log-probabilities are those at ``temperature`` (at 1 for the arg max)."""
    logprobs_BT = action_log_probs(logits_BTV, bins_BT, temperature=temperature or 1.0)
    shape = (len(bins_BT), -1, actions.action_dim)
    return PolicyOutput(
        env_actions_BCA=actions.env_actions(bins_BT).cpu().numpy(),
        bins_BCA=bins_BT.view(shape),
        logprobs_BCA=logprobs_BT.view(shape),
    )


def evaluate_chunk(logits_BTV: Tensor, bins_BCA: Tensor, *, temperature: float) -> PolicyEval:
    """Log-probabilities of ``bins_BCA`` and entropies at ``temperature``, differentiable."""
    logprobs_BT = action_log_probs(logits_BTV, bins_BCA.flatten(1), temperature=temperature)
    entropy_BT = action_entropy(logits_BTV, temperature=temperature)
    return PolicyEval(logprobs_BT.view(bins_BCA.shape), entropy_BT.view(bins_BCA.shape))
