"""A moving average of the weights as the result of a task."""

import torch
from torch import Tensor

from openvla_oft.torch_utils.tensors import local
from rlinf.config.schema import EMAConfig
from rlinf.custom.methods.base import ContinualMethod, TaskContext
from rlinf.custom.methods.parts.state import acting_parameters, named_shards, present_weights
from rlinf.data import RolloutBatch
from rlinf.models import Policy


class ExponentialMovingAverage(ContinualMethod):
    """Learn with the weights, keep their exponential moving average (after Polyak and Juditsky 1992, who average all
    steps alike): what a task leaves, which is evaluated and which the next task starts from, is the average."""

    def __init__(self, config: EMAConfig) -> None:
        self.decay = config.decay
        self.average: dict[str, Tensor] = {}

    def on_task_start(self, task: TaskContext, policy: Policy) -> None:
        """The average begins where the task does."""
        self.average = named_shards(self.resumed, "average.", policy) or present_weights(policy)

    def on_backward(self, policy: Policy) -> None:
        """Count in the weights as the step before left them."""
        self._count_in(policy)

    @torch.no_grad()
    def on_task_end(self, task: TaskContext, policy: Policy, rollouts: RolloutBatch) -> None:
        """Put the average, with the last step in it, in the weights' place."""
        self._count_in(policy)
        for name, parameter in acting_parameters(policy).items():
            local(parameter).copy_(local(self.average[name]))

    @torch.no_grad()
    def _count_in(self, policy: Policy) -> None:
        for name, parameter in acting_parameters(policy).items():
            self.average[name] = self.decay * self.average[name] + (1 - self.decay) * parameter.detach()

    def state_dict(self) -> dict[str, Tensor]:
        return {f"average.{name}": value for name, value in self.average.items()}
