"""How far two policies are apart, over all bins of each token that a policy decides.

Where a policy decodes token by token, distributions are those after the tokens that were sampled.
"""

from typing import Protocol, runtime_checkable

from torch import Tensor

from rlinf.config.errors import ConfigError
from rlinf.models import Policy, PolicyInputs


@runtime_checkable
class GivesLogits(Protocol):
    """A policy whose full distribution can be asked for."""

    def action_logits(self, inputs: PolicyInputs, bins_BT: Tensor) -> Tensor:
        """Logits of the bins (B, T, V), differentiable; see ``ReplayablePolicy``."""


@runtime_checkable
class GivesBaseLogits(GivesLogits, Protocol):
    """One that can also be asked for the base model's."""

    def base_logits(self, inputs: PolicyInputs, bins_BT: Tensor) -> Tensor:
        """The same with the adapter switched off, without gradients."""


def log_probs(policy: Policy, inputs: PolicyInputs, bins_ST: Tensor, *, temperature: float) -> Tensor:
    """Log-probabilities of all bins, (S, T, V), differentiable.

    Raises:
        ConfigError: the policy gives log-probabilities of sampled bins only.
    """
    if not isinstance(policy, GivesLogits):
        raise ConfigError(f"the method needs the full distribution, which {type(policy).__name__} does not give")
    return (policy.action_logits(inputs, bins_ST) / temperature).log_softmax(dim=-1)


def mean_divergence(log_p_STV: Tensor, log_q_STV: Tensor, executed_SC: Tensor) -> Tensor:
    """Mean over all tokens of ``KL(p || q)``; those of actions that were not carried out count as none."""
    kl_SCA: Tensor = (log_p_STV.exp() * (log_p_STV - log_q_STV)).sum(-1).unflatten(1, (executed_SC.shape[1], -1))
    return (kl_SCA * executed_SC[..., None]).mean()
