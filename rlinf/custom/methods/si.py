"""Synaptic intelligence."""

import torch
from torch import Tensor, nn

from rlinf.config.schema import SIConfig
from rlinf.custom.methods.base import ContinualMethod, TaskContext
from rlinf.custom.methods.parts.gradients import add_to_gradients
from rlinf.custom.methods.parts.state import (
    acting_parameters,
    check_tasks,
    named_shards,
    present_weights,
    read_earlier,
)
from rlinf.data import RolloutBatch
from rlinf.models import Policy


class SynapticIntelligence(ContinualMethod):
    """Hold each parameter near its value before the task, as much as its changes lowered the losses of earlier tasks:
    the path integral of gradient times change, over the square of the whole change (SI, arXiv:1703.04200)."""

    def __init__(self, config: SIConfig) -> None:
        self.config = config
        self.importance: dict[str, Tensor] = {}
        self.start: dict[str, Tensor] = {}
        self.gain: dict[str, Tensor] = {}
        self.tasks: tuple[int, ...] = ()
        self.parameters: dict[str, nn.Parameter] = {}
        self.before_step: dict[str, tuple[Tensor, Tensor]] = {}

    def check(self, task: TaskContext) -> None:
        check_tasks(task, method="si")

    @torch.no_grad()
    def on_task_start(self, task: TaskContext, policy: Policy) -> None:
        """Importance is what earlier tasks left; start and gain of an interrupted run are those of its checkpoint."""
        self.check(task)
        self.parameters = acting_parameters(policy)
        self.start = named_shards(self.resumed, "start.", policy) or present_weights(policy)
        self.gain = named_shards(self.resumed, "gain.", policy)
        stored, self.tasks = read_earlier(task)
        self.importance = named_shards(stored, "importance.", policy)
        earlier_start = named_shards(stored, "start.", policy)
        for name, gain in named_shards(stored, "gain.", policy).items():
            change = self.start[name] - earlier_start[name]
            importance = gain.clamp(min=0) / (change.square() + self.config.damping)
            self.importance[name] = self.importance.get(name, 0) + importance

    @torch.no_grad()
    def on_backward(self, policy: Policy) -> None:
        """Note the loss's gradient, then add that of ``coeff * sum(importance * (theta - start)**2)``; on shards."""
        self._count_step()
        self.before_step = {
            name: (p.grad.clone(), p.detach().clone()) for name, p in self.parameters.items() if p.grad is not None
        }
        pulls = {
            name: 2 * self.config.coeff * importance * (self.parameters[name] - self.start[name])
            for name, importance in self.importance.items()
        }
        add_to_gradients(policy, pulls)

    def on_task_end(self, task: TaskContext, policy: Policy, rollouts: RolloutBatch) -> None:
        self.tasks = (*self.tasks, *task.task_ids)

    @torch.no_grad()
    def _count_step(self) -> None:
        """Add by how much the last optimizer step lowered the loss, to first order, parameter by parameter."""
        for name, (gradient, before) in self.before_step.items():
            self.gain[name] = self.gain.get(name, 0) + gradient * (before - self.parameters[name])
        self.before_step = {}

    def state_dict(self) -> dict[str, Tensor]:
        self._count_step()
        parts = {"importance": self.importance, "start": self.start, "gain": self.gain}
        named = {f"{part}.{name}": value for part, values in parts.items() for name, value in values.items()}
        return named | {"tasks": torch.tensor(self.tasks, dtype=torch.int64)}
