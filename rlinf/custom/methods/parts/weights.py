"""Running a policy with other weights for a while."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from openvla_oft.torch_utils.tensors import local
from rlinf.models.lora import trainable_parameters


@contextmanager
def other_weights(module: nn.Module, tensors: Mapping[str, Tensor]) -> Iterator[None]:
    """Other weights for a while. Works on this rank's shards; every rank must do it."""
    _reshard(module)
    parameters = trainable_parameters(module)
    kept = {name: local(parameters[name]).detach().clone() for name in tensors}
    _copy(parameters, tensors)
    try:
        yield
    finally:
        _reshard(module)
        _copy(parameters, kept)


def _reshard(module: nn.Module) -> None:
    """What was gathered of the weights before would be used again, and would be what parameters are."""
    for part in module.modules():
        if isinstance(part, FSDPModule):
            part.reshard()


@torch.no_grad()
def _copy(parameters: Mapping[str, nn.Parameter], tensors: Mapping[str, Tensor]) -> None:
    for name, value in tensors.items():
        local(parameters[name]).copy_(local(value))
