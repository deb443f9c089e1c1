"""Schedule, parameter groups and weight averaging: small pieces without any model."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from openvla_oft.torch_utils.tensors import local, trainable_parameters


def learning_rate(
    *, step: int, progress: float, base: float, num_warmup_steps: int, final_fraction: float = 0.01
) -> float:
    """Linear warmup over the first steps times a cosine in ``progress`` (0 to 1 of the steps or of the time)."""
    warmup = min(1.0, (step + 1) / max(1, num_warmup_steps))
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, max(0.0, progress))))
    return base * warmup * (final_fraction + (1 - final_fraction) * cosine)


def parameter_groups(model: nn.Module, *, weight_decay: float) -> list[dict[str, object]]:
    """Decay matrices and kernels; leave vectors (norms, biases, scales) and embeddings alone."""
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    decayed: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for parameter in model.parameters():
        if parameter.requires_grad:
            (decayed if parameter.dim() >= 2 and id(parameter) not in embeddings else others).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


class WeightAverage:
    """Exponential moving average of the trained parameters; the average forgets its start faster early on.

    With a decay of 0 the average is the parameters themselves, and nothing is kept.

    Under FSDP2 the average of a shard is the shard of the average: nothing is gathered.
    """

    def __init__(self, model: nn.Module, *, decay: float) -> None:
        self.decay = decay
        named = trainable_parameters(model) if decay > 0 else {}
        self.names = list(named)
        self.parameters: Sequence[nn.Parameter] = list(named.values())
        self.averages: list[Tensor] = [parameter.detach().clone() for parameter in self.parameters]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move the averages towards the weights after an optimizer step."""
        if not self.averages:
            return
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self._local_averages(), self._local_parameters(), 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Put the averages into the model for validation or saving, and the trained weights back afterwards."""
        self.swap()
        try:
            yield
        finally:
            self.swap()

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the model's weights and the averages."""
        if not self.averages:
            return
        parameters, averages = self._local_parameters(), self._local_averages()
        current = [parameter.clone() for parameter in parameters]
        torch._foreach_copy_(parameters, averages)
        torch._foreach_copy_(averages, current)

    def state(self) -> dict[str, Tensor]:
        """The averages by parameter name; tensors that a checkpoint is written from and read into."""
        return dict(zip(self.names, self.averages, strict=True))

    def _local_parameters(self) -> list[Tensor]:
        return [local(parameter.detach()) for parameter in self.parameters]

    def _local_averages(self) -> list[Tensor]:
        return [local(average) for average in self.averages]
