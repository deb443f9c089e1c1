"""One training on several GPUs (FSDP2): what every rank keeps whole, what is sharded, and when it is collected."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from peft import PeftModel
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

from openvla_oft.model.learner import Learner
from transformers_openvla_oft.model.blocks import compile_blocks
from transformers_openvla_oft.model.modeling import fsdp_units


def shard(learner: Learner, mesh: DeviceMesh, *, bf16: bool, use_compile: bool, shard_frozen: bool = False) -> None:
    """Cut what is trained into shards, in place. Collective.

    All weights are trained: blocks are sharded one by one, the rest as the root. An adapter: every rank keeps the
    frozen base whole, in the precision that it has, and ranks exchange the adapter alone, which is the root. Collecting
    a base in every pass, 15 GB of a 7B policy, would take longer than all else that ranks exchange.

    bf16: trained weights are collected for forward and backward in bfloat16; gradients are summed in float32.
    shard_frozen: shard the base too, block by block, for GPUs that cannot hold it.
    """
    # Outputs are never changed in place, which is what this warning is about.
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")
    policy = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if bf16 else torch.float32, reduce_dtype=torch.float32, output_dtype=torch.float32
    )
    if use_compile:
        compile_blocks(learner)
    kept: set[nn.Parameter] = set()
    if isinstance(learner.policy, PeftModel) and not shard_frozen:
        kept = {parameter for parameter in learner.parameters() if not parameter.requires_grad}
    else:
        for unit in fsdp_units(learner):
            fully_shard(unit, mesh=mesh, mp_policy=policy)
    # Validation changes weights between two forward passes: a root that stays gathered would not see it.
    fully_shard(learner, mesh=mesh, mp_policy=policy, reshard_after_forward=True, ignored_params=kept)


@contextmanager
def accumulation(learner: nn.Module) -> Iterator[Callable[[bool], None]]:
    """For the micro-batches of one step: call what this gives before each, with whether it is the last.

    Where the adapter alone is sharded, it is collected once for all of them instead of twice for each, and gradients
    are summed over ranks with the last one: small, but hundreds of tensors. It is sharded again when the last backward
    pass ends; parameters are not to be read before. Where blocks are sharded nothing changes: whole gradients of all
    weights would not fit.
    """
    if not isinstance(learner, FSDPModule) or any(isinstance(unit, FSDPModule) for unit in fsdp_units(learner)):
        yield lambda last: None
        return

    def begin(last: bool) -> None:
        learner.set_requires_gradient_sync(last, recurse=False)
        learner.set_reshard_after_forward(False, recurse=False)
        learner.set_reshard_after_backward(last, recurse=False)

    try:
        yield begin
    finally:
        learner.set_reshard_after_forward(True, recurse=False)
