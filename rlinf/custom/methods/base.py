"""The hooks of a continual-learning method. The base class itself is sequential fine-tuning."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import torch
from torch import Tensor, nn

from rlinf.data import RolloutBatch
from rlinf.models import Policy, PolicyInputs

CPU = torch.device("cpu")


@dataclass(frozen=True)
class TaskContext:
    """The task being learnt: its ids, the run's folder, and the tasks learnt before it.

    suite: whose tasks they are; micro_batch: samples per forward pass on one rank.
    previous: the actor folder that the run started from, None where it started from the base model; a method finds
        there what it stored for later tasks (see ``parts/state.py``).
    merged: actor folders of adapters that are merged into the base model beneath the one that is trained.
    cameras: whose images the policy sees.
    temperature: of rollouts and of the log-probabilities that are trained on; seed: of the run.
    device: where the policy is; the learner fills it in.
    """

    task_ids: tuple[int, ...]
    folder: Path
    learnt_before: tuple[int, ...] = ()
    suite: str = "libero_spatial"
    micro_batch: int = 32
    previous: Path | None = None
    merged: tuple[Path, ...] = ()
    temperature: float = 1.0
    seed: int = 0
    cameras: tuple[str, ...] = ("agentview",)
    device: torch.device = CPU


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

    reads_parameters = False
    """A class that overrides ``before_forward`` or ``loss_terms`` says ``reads_parameters = False`` beside them where
    they only run the policy: the adapter, which would have to be sharded for them, then stays collected from one
    micro-batch to the next. Parameters are full tensors in such a hook."""

    collects = True
    """Whether the policy plays before each update; a method for which it does not gives ``experience``."""

    def needs_shards(self) -> bool:
        """Whether parameters must be shards before and after each forward pass of a step.

        What a class says holds for the hooks that it has, not for those that its subclasses put in their place.
        """
        line = type(self).__mro__
        says = next(owner for owner in line if "reads_parameters" in vars(owner))
        hooks = [next(owner for owner in line if hook in vars(owner)) for hook in ("before_forward", "loss_terms")]
        return vars(says)["reads_parameters"] or any(line.index(owner) < line.index(says) for owner in hooks)

    def check(self, task: TaskContext) -> None:
        """Raise ``ConfigError`` where something that the method needs is missing; before anything is started."""

    def on_task_start(self, task: TaskContext, policy: Policy) -> None:
        """Before the first epoch of a task, and again when a run resumes (after ``load_state_dict``)."""

    def param_groups(self, policy: Policy, lr: float) -> list[ParamGroup]:
        """Trainable parameters, in groups with a learning rate each."""
        return [ParamGroup(name, params, lr) for name, params in policy.trainable_modules().items() if params]

    def before_forward(self, policy: Policy, inputs: PolicyInputs, bins_SCA: Tensor, executed_SC: Tensor) -> None:
        """Before the forward pass of a micro-batch, with what it is about to learn from: observations, the bins that
        were sampled, and which of these actions count. The last moment at which weights may be exchanged for a while,
        since gradients refer to them from then on."""

    def loss_terms(self, policy: Policy) -> dict[str, Tensor]:
        """Scalars to add to the policy loss, by name; asked for in every micro-batch, averaged over them and ranks."""
        return {}

    def on_backward(self, policy: Policy) -> None:
        """After the backward pass of an optimizer step, before clipping: gradients may be changed."""

    def experience(self) -> RolloutBatch:
        """What every epoch learns from, where ``collects`` is false; the same on every rank."""
        raise NotImplementedError(f"{type(self).__name__} says that it does not collect, and gives no experience")

    def on_task_end(self, task: TaskContext, policy: Policy, rollouts: RolloutBatch) -> None:
        """After the last epoch of a task, with its last rollouts."""

    def state_dict(self) -> dict[str, Tensor]:
        """What resuming and later tasks need beside weights and optimizer, shards or full tensors, by name; written
        with every checkpoint as ``method_state.safetensors``."""
        return {}

    resumed: Mapping[str, Tensor] = MappingProxyType({})
    """What ``state_dict`` gave, as full tensors, when this run was interrupted; empty in one that was not."""

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take that back; before ``on_task_start``."""
        self.resumed = state
