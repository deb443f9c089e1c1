"""Sharded training of a policy with FSDP2 (``fully_shard``).

Under FSDP2 a sharded parameter is a ``DTensor`` that holds this rank's part. Functions say whether they see shards or
full tensors, and which ranks must call them.
"""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy

from openvla_oft.torch_utils import sharding
from openvla_oft.torch_utils.tensors import whole
from rlinf.models import Policy
from rlinf.models.lora import trainable_parameters
from rlinf.models.transfer import Received, sent

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def shard(
    module: nn.Module,
    units: Iterable[nn.Module],
    mesh: DeviceMesh,
    *,
    param_dtype: str,
    reshard_after_forward: bool,
    shard_frozen: bool = False,
    value_head: nn.Module | None = None,
) -> FSDPModule:
    """Shard what is trained, and what is frozen where asked for. Collective.

    param_dtype: precision of forward and backward; gradients are reduced in float32.
    reshard_after_forward: give collected weights back between forward and backward pass, where frozen ones are sharded.
    shard_frozen: shard ``units`` one by one, frozen weights and all, and the rest of ``module`` as the root: least
        memory, but every pass collects the full model. Without it every rank keeps the frozen weights, in
        ``param_dtype``, and ranks exchange only what is trained, which is little next to them under an adapter.
    value_head: a part of ``module`` that computes in float32 whatever ``param_dtype`` is: half a per cent of a return
        is more than the difference between two states.
    """
    dtype = DTYPES[param_dtype]
    if not shard_frozen:
        for parameter in module.parameters():
            if not parameter.requires_grad:
                parameter.data = parameter.data.to(dtype)
    return sharding.shard(
        module,
        units,
        mesh,
        policy=MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=torch.float32),
        by_unit=shard_frozen,
        reshard_after_forward=reshard_after_forward or not shard_frozen,  # others read parameters between passes
        exact=value_head,
    )


def accumulation(policy: Policy, *, keeps_weights: bool) -> AbstractContextManager[Callable[[bool], None]]:
    """For the micro-batches of one minibatch: call what this gives before each, with whether it is the last.

    Gradients accumulate on each rank and are reduced with the last one.

    keeps_weights: where only the adapter is sharded, collect it once for all of them instead of twice for each: it is
        small, but has hundreds of tensors, and collecting them took a tenth of an update's time on one GPU.
    """
    stays = keeps_weights and not any(isinstance(unit, FSDPModule) for unit in policy.units())
    return sharding.accumulation(policy.module, delays_gradients=True, keeps_weights=stays)


def gather_trainable(module: nn.Module, *, keep: bool = True) -> dict[str, NDArray[np.float32]]:
    """Whole trainable tensors by name, float32 in CPU memory, where ``keep``; nothing elsewhere. Collective.

    keep: on the rank that needs them; copies that others throw away share its memory's bandwidth.
    """
    parameters = trainable_parameters(module)
    tensors = [tensor.float() for tensor in map(whole, parameters.values()) if keep]
    return dict(zip(parameters, Received(*tensors).arrays(), strict=True)) if keep else {}


def load_trainable(module: nn.Module, tensors: dict[str, NDArray[np.float32]]) -> None:
    """Copy full tensors into an unsharded module.

    Raises:
        ValueError: names differ from those of the module's trainable parameters.
    """
    parameters = trainable_parameters(module)
    if parameters.keys() != tensors.keys():
        differing = sorted(parameters.keys() ^ tensors.keys())
        raise ValueError(f"weights do not fit the policy: {len(differing)} names differ, the first is {differing[0]}")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(sent(torch.from_numpy(tensors[name].copy()), parameter.device))


def clip_gradients(parameters: Iterable[nn.Parameter], max_norm: float) -> Tensor:
    """Scale gradients down to a total norm of ``max_norm``; returns the norm before, the same on every rank, which may
    not be finite. Collective; right on shards."""
    return whole(nn.utils.clip_grad_norm_(list(parameters), max_norm))
