"""Elastic weight consolidation."""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from rlinf.config.schema import EWCConfig
from rlinf.custom.methods.base import ContinualMethod, TaskContext
from rlinf.custom.methods.parts.chunks import ActionChunks
from rlinf.custom.methods.parts.gradients import add_to_gradients
from rlinf.custom.methods.parts.state import check_tasks, named_shards, read_earlier
from rlinf.data import RolloutBatch
from rlinf.models import Policy
from rlinf.models.lora import trainable_parameters

Fisher = dict[str, Tensor]
"""By name of parameter, sharded as the parameter is; none for parameters that the likelihood does not depend on."""


class EWC(ContinualMethod):
    """Hold parameters that earlier tasks' behaviour depends on, by the diagonal Fisher information, near their values
    (EWC, arXiv:1612.00796), with one Fisher summed over tasks and the newest anchor (online EWC, arXiv:1805.06370)."""

    def __init__(self, config: EWCConfig) -> None:
        self.config = config
        self.fisher: Fisher = {}
        self.anchor: dict[str, Tensor] = {}
        self.tasks: tuple[int, ...] = ()

    def check(self, task: TaskContext) -> None:
        check_tasks(task, method="ewc")

    def on_task_start(self, task: TaskContext, policy: Policy) -> None:
        """What the earlier tasks left, also when this task is resumed: it does not change before the task's end."""
        self.check(task)
        stored, self.tasks = read_earlier(task)
        self.fisher = named_shards(stored, "fisher.", policy)
        self.anchor = named_shards(stored, "anchor.", policy)

    @torch.no_grad()
    def on_backward(self, policy: Policy) -> None:
        """Add the gradient of ``coeff * sum(F * (theta - theta*)**2)``; on each rank's shards."""
        parameters = trainable_parameters(policy.module)
        pulls = {
            name: 2 * self.config.coeff * fisher * (parameters[name] - self.anchor[name])
            for name, fisher in self.fisher.items()
        }
        add_to_gradients(policy, pulls)

    def on_task_end(self, task: TaskContext, policy: Policy, rollouts: RolloutBatch) -> None:
        """Add this task's Fisher information, from its last rollouts, and move the anchor here."""
        positions = np.random.default_rng([task.seed, *task.task_ids]).permutation(rollouts.num_samples)
        samples = ActionChunks.of(rollouts, np.sort(positions[: self.config.num_samples or None]))
        for name, value in ESTIMATORS[self.config.fisher](policy, samples, task).items():
            self.fisher[name] = self.fisher[name] + value if name in self.fisher else value
        parameters = trainable_parameters(policy.module)
        self.anchor = {name: parameters[name].detach().clone() for name in self.fisher}
        self.tasks = (*self.tasks, *task.task_ids)

    def state_dict(self) -> dict[str, Tensor]:
        named = {f"fisher.{name}": value for name, value in self.fisher.items()}
        named |= {f"anchor.{name}": value for name, value in self.anchor.items()}
        return named | {"tasks": torch.tensor(self.tasks, dtype=torch.int64)} if named else {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Nothing: what an interrupted task had is what the earlier ones left."""


# Estimates of the diagonal Fisher information of a policy's log-likelihood at the executed actions. Both are passes of
# their own, over every rank the same samples: FSDP then averages equal gradients, and the square of a shard is right on
# that shard. Collective.


def per_sample_fisher(policy: Policy, samples: ActionChunks, task: TaskContext) -> Fisher:
    """Squared gradient of each chunk's log-likelihood, summed, per executed token.

    The tokens of a chunk are independent given what is seen, so their scores are uncorrelated: the expected square of
    their sum is the sum of the tokens' Fisher information. One backward pass per chunk estimates what one per token
    would, and a chunk of one token is the textbook's estimator.
    """
    total: Fisher = {}
    for position in range(len(samples)):
        policy.module.zero_grad(set_to_none=True)
        sample = samples.select(np.array([position]))
        sample.log_likelihood(policy, temperature=task.temperature, device=task.device).backward()
        _add_squares(total, policy, 1 / max(samples.num_tokens, 1))
    policy.module.zero_grad(set_to_none=True)
    return total


def published_fisher(policy: Policy, samples: ActionChunks, task: TaskContext) -> Fisher:
    """The published code's estimator, kept for comparison: squares of the gradient while it accumulates over
    micro-batches of mean log-probabilities. Scores of different samples cancel inside the square, and early
    micro-batches are counted again by all later ones."""
    total: Fisher = {}
    policy.module.zero_grad(set_to_none=True)
    count = -(-len(samples) // task.micro_batch)
    for positions in np.array_split(np.arange(len(samples)), count):
        part = samples.select(positions)
        loss = part.log_likelihood(policy, temperature=task.temperature, device=task.device)
        (loss / (max(part.num_tokens, 1) * count)).backward()
        _add_squares(total, policy, 1.0)
    policy.module.zero_grad(set_to_none=True)
    return total


def _add_squares(total: Fisher, policy: Policy, weight: float) -> None:
    for name, parameter in trainable_parameters(policy.module).items():
        if parameter.grad is not None:
            square = parameter.grad.detach().square() * weight
            total[name] = total[name] + square if name in total else square


ESTIMATORS: dict[str, Callable[[Policy, ActionChunks, TaskContext], Fisher]] = {
    "per_sample": per_sample_fisher,
    "published": published_fisher,
}
