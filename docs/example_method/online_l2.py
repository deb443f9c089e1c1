"""An example method in a package of its own: stay near the weights that the task before left."""

import torch
from torch import Tensor

from rlinf.config import ConfigError
from rlinf.config.schema import MethodConfig
from rlinf.custom.methods import (
    ContinualMethod,
    TaskContext,
    add_to_gradients,
    check_tasks,
    named_shards,
    read_earlier,
    trainable_parameters,
)
from rlinf.data import RolloutBatch
from rlinf.models import Policy


class OnlineL2(ContinualMethod):
    """Hold all weights near those of the task before, each as much as any other (EWC with a Fisher of ones).

    ``method.options.coeff`` is the penalty's weight.
    """

    def __init__(self, config: MethodConfig) -> None:
        coeff = config.options.get("coeff", 0.01)
        if isinstance(coeff, str) or coeff < 0:
            raise ConfigError(f"method.options.coeff={coeff} must be a number, 0 or greater")
        self.coeff = coeff
        self.anchor: dict[str, Tensor] = {}
        self.tasks: tuple[int, ...] = ()

    def check(self, task: TaskContext) -> None:
        """Before anything is started: what the tasks before should have left is there."""
        check_tasks(task, method="online_l2")

    def on_task_start(self, task: TaskContext, policy: Policy) -> None:
        """The weights that the task before left, as this rank's shards; none before the first task."""
        stored, self.tasks = read_earlier(task)
        self.anchor = named_shards(stored, "anchor.", policy)

    @torch.no_grad()
    def on_backward(self, policy: Policy) -> None:
        """Add the gradient of ``coeff * sum((theta - anchor)**2)``: element by element, so right on any shard."""
        parameters = trainable_parameters(policy.module)
        pulls = {name: 2 * self.coeff * (parameters[name] - anchor) for name, anchor in self.anchor.items()}
        add_to_gradients(policy, pulls)

    def on_task_end(self, task: TaskContext, policy: Policy, rollouts: RolloutBatch) -> None:
        """What the next task is held near."""
        self.tasks = (*self.tasks, *task.task_ids)
        self.anchor = {name: p.detach().clone() for name, p in trainable_parameters(policy.module).items()}

    def state_dict(self) -> dict[str, Tensor]:
        """Written with every checkpoint; shards are gathered."""
        named = {f"anchor.{name}": value for name, value in self.anchor.items()}
        return named | {"tasks": torch.tensor(self.tasks)} if self.tasks else {}
