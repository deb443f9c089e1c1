"""The hooks of a continual-learning method. The base class itself is sequential fine-tuning."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from rlinf.data import RolloutBatch
from rlinf.models import Policy


@dataclass(frozen=True)
class TaskContext:
    """The task being learnt: its ids, the run's folder, and the tasks learnt before it.

    suite: whose tasks they are; micro_batch: samples per forward pass on one rank.
    """

    task_ids: tuple[int, ...]
    folder: Path
    learnt_before: tuple[int, ...] = ()
    suite: str = "libero_spatial"
    micro_batch: int = 32


@dataclass(frozen=True)
class ParamGroup:
    """Parameters with a learning rate of their own."""

    name: str
    params: list[nn.Parameter]
    lr: float


class ContinualMethod:
    """Sequential fine-tuning: the adapter is carried from task to task and nothing else is done.

    A method overrides the hooks it needs. Parameters are FSDP2 shards in every hook; arithmetic that adds to ``p.grad``
    element by element is right on any shard.
    """

    def on_task_start(self, task: TaskContext, policy: Policy) -> None:
        """Before the first epoch of a task."""

    def param_groups(self, policy: Policy, lr: float) -> list[ParamGroup]:
        """Trainable parameters, in groups with a learning rate each."""
        return [ParamGroup(name, params, lr) for name, params in policy.trainable_modules().items() if params]

    def loss_terms(self, policy: Policy) -> dict[str, Tensor]:
        """Scalars to add to the policy loss, by name; asked for in every micro-batch, averaged over them and ranks."""
        return {}

    def on_backward(self, policy: Policy) -> None:
        """After the backward pass of an optimizer step, before clipping: gradients may be changed."""

    def on_task_end(self, task: TaskContext, policy: Policy, rollouts: RolloutBatch) -> None:
        """After the last epoch of a task, with its last rollouts."""

    def state_dict(self) -> dict[str, Any]:
        """What resuming needs, beside weights and optimizer."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what ``state_dict`` gave."""
