"""Running a policy with other weights for a while."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from rlinf.custom.methods.state import local
from rlinf.models.lora import trainable_parameters


@contextmanager
def other_weights(module: nn.Module, tensors: Mapping[str, Tensor]) -> Iterator[None]:
    """Other weights for a while. Works on this rank's shards; every rank must do it."""
    parameters = trainable_parameters(module)
    kept = {name: local(parameters[name]).detach().clone() for name in tensors}
    _copy(module, parameters, tensors)
    try:
        yield
    finally:
        _copy(module, parameters, kept)


@torch.no_grad()
def _copy(module: nn.Module, parameters: Mapping[str, nn.Parameter], tensors: Mapping[str, Tensor]) -> None:
    for part in module.modules():
        if isinstance(part, FSDPModule):
            part.reshard()  # what was gathered of the weights before would be used again
    for name, value in tensors.items():
        local(parameters[name]).copy_(local(value))
