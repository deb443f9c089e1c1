"""FSDP2: what every rank keeps whole, what is sharded, and when it is collected in a step of several micro-batches."""

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard


def shard(
    module: nn.Module,
    units: Iterable[nn.Module],
    mesh: DeviceMesh,
    *,
    policy: MixedPrecisionPolicy,
    by_unit: bool,
    reshard_after_forward: bool = True,
    exact: nn.Module | None = None,
) -> FSDPModule:
    """Cut a module into shards, in place. Collective.

    by_unit: shard ``units`` one by one, frozen weights and all, and the rest as the root: least memory, but every pass
        collects the whole model. Without it every rank keeps frozen weights whole, in the precision that they have, and
        ranks exchange only what is trained, which is the root: little, under an adapter.
    reshard_after_forward: give collected weights back between forward and backward pass.
    exact: a part of ``module`` that computes in float32 whatever ``policy`` says.
    """
    # Outputs are never changed in place, which is what this warning is about.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    replicated: set[nn.Parameter] = set()
    if by_unit:
        for unit in units:
            fully_shard(unit, mesh=mesh, mp_policy=policy, reshard_after_forward=reshard_after_forward)
    else:
        replicated = {parameter for parameter in module.parameters() if not parameter.requires_grad}
    if exact is not None:
        float32 = MixedPrecisionPolicy(param_dtype=torch.float32, reduce_dtype=torch.float32)
        fully_shard(exact, mesh=mesh, mp_policy=float32, reshard_after_forward=reshard_after_forward)
    fully_shard(
        module, mesh=mesh, mp_policy=policy, reshard_after_forward=reshard_after_forward, ignored_params=replicated
    )
    assert isinstance(module, FSDPModule)
    return module


@contextmanager
def accumulation(module: nn.Module, *, delays_gradients: bool, keeps_weights: bool) -> Iterator[Callable[[bool], None]]:
    """For the micro-batches of one step: call what this gives before each, with whether it is the last.

    delays_gradients: accumulate gradients on each rank, whole, and reduce them with the last micro-batch.
    keeps_weights: collect what is the root's once for all of them instead of twice for each. It is sharded again when
        the last backward pass ends; parameters are not to be read before.
    """
    if not isinstance(module, FSDPModule):
        yield lambda last: None
        return

    def begin(last: bool) -> None:
        if delays_gradients:
            module.set_requires_gradient_sync(last)
        if keeps_weights:
            module.set_reshard_after_forward(False, recurse=False)
            module.set_reshard_after_backward(last, recurse=False)

    try:
        yield begin
    except BaseException:  # whoever goes on after it finds shards, as after the last micro-batch
        begin(True)
        module.reshard()
        raise
    finally:
        if keeps_weights:
            module.set_reshard_after_forward(True, recurse=False)
