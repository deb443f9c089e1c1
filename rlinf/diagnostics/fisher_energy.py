"""Whether training moved the weights that the base model's behaviour depends on, or others."""

from collections.abc import Iterable, Mapping
from dataclasses import replace

import numpy as np
from torch import Tensor

from rlinf.custom.methods.base import TaskContext
from rlinf.custom.methods.ewc import per_sample_fisher
from rlinf.custom.methods.parts.chunks import ActionChunks
from rlinf.models import ReplayablePolicy


def fisher_energy(fisher: Mapping[str, Tensor], changes: Iterable[tuple[str, Tensor]]) -> float:
    """How much of a change falls on weights that behaviour depends on: with ``d`` the change and ``F`` the diagonal
    Fisher information of the ``n`` weights that may change, ``(sum F d^2 / sum d^2) / (sum F / n)``.

    1: like a change of random direction, below 1: away from weights that matter, above 1: towards them; 0 where nothing
    changed. It depends neither on the size of the change nor on the scale of F. ``sum F d^2 / 2`` is what KL(base ||
    policy) would be to second order if F had no other entries than its diagonal.

    The name is that of a number in arXiv:2603.11653, of which we know no definition. This one is ours, and not to be
    compared with the number there.

    fisher: by name of weight; those without are weights that the likelihood does not depend on.
    """
    weighted = squares = information = 0.0
    count = 0
    for name, change in changes:
        square = change.double().square()
        squares += float(square.sum())
        count += change.numel()
        if name in fisher:
            weighted += float((fisher[name].to(square) * square).sum())
            information += float(fisher[name].double().sum())
    return weighted / squares * count / information if squares and information else 0.0


def fisher_at(base: ReplayablePolicy, samples: ActionChunks, task: TaskContext) -> dict[str, Tensor]:
    """Diagonal Fisher information of all trainable weights of a base model on what the expert saw of a task, per token:
    at actions that it samples itself. One backward pass for each frame."""
    uniforms_BCA = np.random.default_rng(task.task_ids).random(samples.bins_MCA.shape)
    inputs = samples.inputs(task.device)
    bins_BCA = base.act(inputs, temperature=task.temperature, uniforms_BCA=uniforms_BCA).bins_BCA
    return per_sample_fisher(base, replace(samples, bins_MCA=bins_BCA.cpu()), task)
