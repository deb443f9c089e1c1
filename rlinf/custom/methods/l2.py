"""A pull towards the weights that the sequence started from."""

import torch
from torch import Tensor

from rlinf.config.schema import L2Config
from rlinf.custom.methods.base import ContinualMethod, TaskContext
from rlinf.custom.methods.parts.gradients import add_to_gradients
from rlinf.custom.methods.parts.state import named_shards, present_weights, read_state
from rlinf.models import Policy
from rlinf.models.lora import trainable_parameters


class L2Start(ContinualMethod):
    """A quadratic pull towards the starting point instead of towards zero (L2-SP, arXiv:1802.01483)."""

    def __init__(self, config: L2Config) -> None:
        self.coeff = config.coeff
        self.start: dict[str, Tensor] = {}

    def on_task_start(self, task: TaskContext, policy: Policy) -> None:
        """The first task's starting point is handed on from task to task."""
        stored = self.resumed or (read_state(task.previous) if task.previous else {})
        self.start = named_shards(stored, "start.", policy) or present_weights(policy)

    @torch.no_grad()
    def on_backward(self, policy: Policy) -> None:
        """Add the gradient of ``coeff * sum((theta - start)**2)``: element by element, so right on any shard."""
        parameters = trainable_parameters(policy.module)
        pulls = {name: 2 * self.coeff * (parameters[name] - start) for name, start in self.start.items()}
        add_to_gradients(policy, pulls)

    def state_dict(self) -> dict[str, Tensor]:
        return {f"start.{name}": value for name, value in self.start.items()}
