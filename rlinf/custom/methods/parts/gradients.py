"""Gradients beside those of the policy loss, and their geometry. Right on shards, of which every rank holds its own."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor

from openvla_oft.torch_utils.tensors import local
from rlinf.custom.methods.base import TaskContext
from rlinf.custom.methods.parts.chunks import ActionChunks
from rlinf.models import Policy
from rlinf.models.lora import trainable_parameters
from rlinf.models.shards import rank_and_size


def add_to_gradients(policy: Policy, terms: Mapping[str, Tensor]) -> None:
    """Add to ``p.grad`` of the parameters of these names, element by element: right on any shard."""
    parameters = trainable_parameters(policy.module)
    for name, term in terms.items():
        gradient = parameters[name].grad
        parameters[name].grad = term if gradient is None else gradient + term


@torch.enable_grad()
def loss_gradient(policy: Policy, samples: ActionChunks, task: TaskContext) -> dict[str, Tensor]:
    """Gradient of the mean negative log-likelihood per executed token, by name; ``p.grad`` is used up.

    Collective: every rank gives the same samples and works on its share of them.
    """
    rank, world_size = rank_and_size()
    per_rank = -(-len(samples) // world_size)
    positions = np.arange(rank * per_rank, (rank + 1) * per_rank)
    # Forward passes are collective: a rank without samples of its own repeats the last one, which does not count.
    counts = torch.from_numpy(positions < len(samples))
    share = samples.select(np.minimum(positions, len(samples) - 1))
    share = replace(share, executed_MC=share.executed_MC & counts[:, None])
    policy.module.zero_grad(set_to_none=True)
    for micro in np.array_split(np.arange(per_rank), -(-per_rank // task.micro_batch)):
        likelihood = share.select(micro).log_likelihood(policy, temperature=task.temperature, device=task.device)
        # FSDP averages gradients over ranks; here they are parts of one sum.
        (-likelihood * (world_size / max(samples.num_tokens, 1))).backward()
    parameters = trainable_parameters(policy.module)
    gradient = {name: p.grad.detach() for name, p in parameters.items() if p.grad is not None}
    policy.module.zero_grad(set_to_none=True)
    return gradient


def inner_product(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> Tensor:
    """Sum of products over all elements of the tensors that are in both, float64. Collective where they are sharded."""
    pairs = [(left[name], right[name]) for name in left if name in right]
    total = torch.zeros((), dtype=torch.float64, device=local(pairs[0][0]).device if pairs else None)
    for a, b in pairs:
        total += (local(a).double() * local(b).double()).sum()
    if any(isinstance(a, DTensor) for a, _ in pairs):
        dist.all_reduce(total)
    return total
