"""Learning without forgetting."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from openvla_oft.torch_utils.tensors import local
from rlinf.config.errors import ConfigError
from rlinf.config.schema import LwFConfig
from rlinf.custom.methods.base import ContinualMethod, TaskContext
from rlinf.custom.methods.state import named_shards
from rlinf.models import Policy, PolicyInputs
from rlinf.models.lora import trainable_parameters

PREFIX = "previous."


@runtime_checkable
class GivesLogits(Protocol):
    """A policy whose full distribution can be asked for."""

    def action_logits(self, inputs: PolicyInputs, bins_BT: Tensor) -> Tensor:
        """Logits of the bins (B, T, V), differentiable; see ``ReplayablePolicy``."""


class LwF(ContinualMethod):
    """Keep answers on the observations of the new task close to those of the policy before it, by the Kullback-Leibler
    divergence of their distributions (LwF, arXiv:1606.09282); before the first task that is the base policy. Where a
    policy decodes token by token, distributions are those after the tokens that were sampled."""

    reads_parameters = False  # but by other_weights, which shards them first

    def __init__(self, config: LwFConfig) -> None:
        self.coeff = config.coeff
        self.previous: dict[str, Tensor] = {}
        self._resumed: Mapping[str, Tensor] = {}

    def on_task_start(self, task: TaskContext, policy: Policy) -> None:
        """The weights as they are now, or as they were when an interrupted run began."""
        self.temperature = task.temperature
        parameters = trainable_parameters(policy.module)
        self.previous = named_shards(self._resumed, PREFIX, policy) or {
            name: parameter.detach().clone() for name, parameter in parameters.items()
        }

    def before_forward(self, policy: Policy, inputs: PolicyInputs, bins_SCA: Tensor, executed_SC: Tensor) -> None:
        self._inputs, self._bins_ST, self._executed_SC = inputs, bins_SCA.flatten(1), executed_SC
        with torch.no_grad(), other_weights(policy.module, self.previous):
            self._target_STV = self._log_probs(policy)

    def loss_terms(self, policy: Policy) -> dict[str, Tensor]:
        """Divergence per token of a chunk; actions that were not carried out count as none."""
        gap_STV = self._target_STV.exp() * (self._target_STV - self._log_probs(policy))
        kl_SCA = gap_STV.sum(-1).unflatten(1, (self._executed_SC.shape[1], -1))
        return {"lwf": self.coeff * (kl_SCA * self._executed_SC[..., None]).mean()}

    def _log_probs(self, policy: Policy) -> Tensor:
        if not isinstance(policy, GivesLogits):
            raise ConfigError(f"method lwf needs the full distribution, which {type(policy).__name__} does not give")
        return torch.log_softmax(policy.action_logits(self._inputs, self._bins_ST) / self.temperature, dim=-1)

    def state_dict(self) -> dict[str, Tensor]:
        return {f"{PREFIX}{name}": value for name, value in self.previous.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self._resumed = state


@contextmanager
def other_weights(module: nn.Module, tensors: Mapping[str, Tensor]) -> Iterator[None]:
    """Other weights for a while. Works on this rank's shards; every rank must do it."""
    _reshard(module)
    parameters = trainable_parameters(module)
    kept = {name: local(parameters[name]).detach().clone() for name in tensors}
    _copy(parameters, tensors)
    try:
        yield
    finally:
        _reshard(module)
        _copy(parameters, kept)


def _reshard(module: nn.Module) -> None:
    """What was gathered of the weights before would be used again, and would be what parameters are."""
    for part in module.modules():
        if isinstance(part, FSDPModule):
            part.reshard()


@torch.no_grad()
def _copy(parameters: Mapping[str, nn.Parameter], tensors: Mapping[str, Tensor]) -> None:
    for name, value in tensors.items():
        local(parameters[name]).copy_(local(value))
