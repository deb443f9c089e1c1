"""Divergence from the base model."""

from collections.abc import Mapping

import torch
from torch import Tensor

from rlinf.config.errors import ConfigError
from rlinf.config.schema import KLConfig
from rlinf.custom.methods.base import ContinualMethod, TaskContext
from rlinf.custom.methods.parts.divergence import GivesBaseLogits, log_probs, mean_divergence
from rlinf.models import Policy, PolicyInputs


class KLToBase(ContinualMethod):
    """Keep answers on the observations of the policy's own rollouts close to those of the frozen base model: ``coeff *
    KL(policy || base)``, the penalty of RL from human feedback (arXiv:1909.08593). How far RL goes from its start is
    said to tell how much it forgets (arXiv:2509.04259)."""

    reads_parameters = False

    def __init__(self, config: KLConfig) -> None:
        self.config = config
        self.num_steps = 0

    def on_task_start(self, task: TaskContext, policy: Policy) -> None:
        self.temperature = task.temperature

    def before_forward(self, policy: Policy, inputs: PolicyInputs, bins_SCA: Tensor, executed_SC: Tensor) -> None:
        self._inputs, self._bins_ST, self._executed_SC = inputs, bins_SCA.flatten(1), executed_SC

    def loss_terms(self, policy: Policy) -> dict[str, Tensor]:
        """``coeff`` times the divergence per token of a chunk, less with every step of a task where it is annealed."""
        if not isinstance(policy, GivesBaseLogits):
            raise ConfigError(f"method kl needs the base model's logits, which {type(policy).__name__} does not give")
        base_STV = torch.log_softmax(policy.base_logits(self._inputs, self._bins_ST) / self.temperature, dim=-1)
        now_STV = log_probs(policy, self._inputs, self._bins_ST, temperature=self.temperature)
        return {"kl": self.coeff * mean_divergence(now_STV, base_STV, self._executed_SC)}

    @property
    def coeff(self) -> float:
        """The weight at this optimizer step of the task."""
        done = self.num_steps / self.config.anneal_steps if self.config.anneal_steps else 0.0
        return self.config.coeff * max(0.0, 1.0 - done)

    def on_backward(self, policy: Policy) -> None:
        self.num_steps += 1

    def state_dict(self) -> dict[str, Tensor]:
        return {"steps": torch.tensor(self.num_steps)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.num_steps = int(state["steps"])
