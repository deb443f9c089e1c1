"""From logits over action bins to sampled chunks and back: what all policies over binned actions share.

T action tokens of a sample are C actions x A dimensions in order; V bins.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlinf.models.policy import PolicyEval, PolicyOutput
from transformers_openvla_oft import ActionTokenMap, action_entropy, action_log_probs


def sample_chunk(
    logits_BTV: Tensor, actions: ActionTokenMap, *, temperature: float, uniforms_BCA: NDArray[np.float64]
) -> PolicyOutput:
    """Sample a chunk by inverting the cumulative distribution; temperature 0 takes the arg max.

    Log-probabilities are those at ``temperature`` (at 1 for the arg max).
    """
    log_probs_BTV = torch.log_softmax(logits_BTV / (temperature or 1.0), dim=-1)
    if temperature == 0:
        bins_BT = logits_BTV.argmax(-1)
    else:
        uniforms_BT1 = torch.from_numpy(uniforms_BCA).to(logits_BTV.device).flatten(1)[..., None]
        cumulative_BTV = log_probs_BTV.double().exp().cumsum(-1)
        # The sum of probabilities is 1 up to rounding; scaling by it keeps the last bin within reach and in range.
        bins_BT = torch.searchsorted(cumulative_BTV, uniforms_BT1 * cumulative_BTV[..., -1:], right=True)[..., 0]
        bins_BT = bins_BT.clamp(max=logits_BTV.shape[-1] - 1)
    logprobs_BT = log_probs_BTV.gather(-1, bins_BT[..., None])[..., 0]
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
