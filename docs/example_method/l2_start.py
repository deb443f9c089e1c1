"""An example method in a package of its own: stay near the weights that the sequence started from."""

from collections.abc import Mapping

import torch
from torch import Tensor

from rlinf.config import ConfigError
from rlinf.config.schema import MethodConfig
from rlinf.custom.methods import ContinualMethod, TaskContext, add_to_gradients, named_shards, trainable_parameters
from rlinf.custom.methods.state import read_state
from rlinf.models import Policy


class L2Start(ContinualMethod):
    """A quadratic pull towards the starting point instead of towards zero (L2-SP, arXiv:1802.01483).

    ``method.options.coeff`` is its weight.
    """

    def __init__(self, config: MethodConfig) -> None:
        coeff = config.options.get("coeff", 0.01)
        if not isinstance(coeff, float) or coeff < 0:
            raise ConfigError(f"method.options.coeff={coeff} must be a number, 0 or greater")
        self.coeff = coeff
        self.start: dict[str, Tensor] = {}
        self.stored: Mapping[str, Tensor] = {}

    def on_task_start(self, task: TaskContext, policy: Policy) -> None:
        """The first task's starting point is handed on from task to task; parameters may be shards."""
        stored = self.stored or (read_state(task.previous) if task.previous else {})
        self.start = named_shards(stored, "start.", policy) or {
            name: parameter.detach().clone() for name, parameter in trainable_parameters(policy.module).items()
        }

    @torch.no_grad()
    def on_backward(self, policy: Policy) -> None:
        """Add the gradient of ``coeff * sum((theta - start)**2)``: element by element, so right on any shard."""
        parameters = trainable_parameters(policy.module)
        pulls = {name: 2 * self.coeff * (parameters[name] - start) for name, start in self.start.items()}
        add_to_gradients(policy, pulls)

    def state_dict(self) -> dict[str, Tensor]:
        """Written with every checkpoint; shards are gathered."""
        return {f"start.{name}": value for name, value in self.start.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """A run that was interrupted and resumes: called before ``on_task_start``."""
        self.stored = state
