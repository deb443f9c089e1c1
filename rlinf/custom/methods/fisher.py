"""Estimates of the diagonal Fisher information of a policy's log-likelihood at the executed actions.

Both are passes of their own, over every rank the same samples: FSDP then averages equal gradients, and the square of a
shard is right on that shard. Collective.
"""

from collections.abc import Callable

import numpy as np
from torch import Tensor

from rlinf.custom.methods.base import TaskContext
from rlinf.custom.methods.chunks import ActionChunks
from rlinf.models import Policy
from rlinf.models.lora import trainable_parameters

Fisher = dict[str, Tensor]
"""By name of parameter, sharded as the parameter is; none for parameters that the likelihood does not depend on."""


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
