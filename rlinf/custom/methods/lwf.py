"""Learning without forgetting."""

import torch
from torch import Tensor

from rlinf.config.schema import LwFConfig
from rlinf.custom.methods.base import ContinualMethod, TaskContext
from rlinf.custom.methods.parts.divergence import log_probs, mean_divergence
from rlinf.custom.methods.parts.state import named_shards, present_weights
from rlinf.custom.methods.parts.weights import other_weights
from rlinf.models import Policy, PolicyInputs

PREFIX = "previous."


class LwF(ContinualMethod):
    """Keep answers on the observations of the new task close to those of the policy before it, by the Kullback-Leibler
    divergence of their distributions (LwF, arXiv:1606.09282); before the first task that is the base policy. Where a
    policy decodes token by token, distributions are those after the tokens that were sampled."""

    reads_parameters = False  # but by other_weights, which shards them first

    def __init__(self, config: LwFConfig) -> None:
        self.coeff = config.coeff
        self.previous: dict[str, Tensor] = {}

    def on_task_start(self, task: TaskContext, policy: Policy) -> None:
        """The weights as they are now, or as they were when an interrupted run began."""
        self.temperature = task.temperature
        self.previous = named_shards(self.resumed, PREFIX, policy) or present_weights(policy)

    def before_forward(self, policy: Policy, inputs: PolicyInputs, bins_SCA: Tensor, executed_SC: Tensor) -> None:
        self._inputs, self._bins_ST, self._executed_SC = inputs, bins_SCA.flatten(1), executed_SC
        with torch.no_grad(), other_weights(policy.module, self.previous):
            self._target_STV = self._log_probs(policy)

    def loss_terms(self, policy: Policy) -> dict[str, Tensor]:
        """Divergence per token of a chunk; actions that were not carried out count as none."""
        return {"lwf": self.coeff * mean_divergence(self._target_STV, self._log_probs(policy), self._executed_SC)}

    def _log_probs(self, policy: Policy) -> Tensor:
        return log_probs(policy, self._inputs, self._bins_ST, temperature=self.temperature)

    def state_dict(self) -> dict[str, Tensor]:
        return {f"{PREFIX}{name}": value for name, value in self.previous.items()}
