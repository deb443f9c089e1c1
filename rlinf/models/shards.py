"""Tensors of which each rank of a group holds a part (FSDP2's ``DTensor``), or all where nothing is sharded."""

import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor


def rank_and_size() -> tuple[int, int]:
    """This process's rank and the number of ranks: 0 and 1 outside a group."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def whole(tensor: Tensor) -> Tensor:
    """The whole tensor behind a shard, detached. Collective when ``tensor`` is sharded."""
    return tensor.full_tensor().detach() if isinstance(tensor, DTensor) else tensor.detach()


def local(tensor: Tensor) -> Tensor:
    """The elements of a parameter or gradient that this rank holds; changing them in place changes the tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def shard_like(full: Tensor, like: Tensor) -> Tensor:
    """This rank's part of ``full``, placed as ``like`` is; every rank must give the same ``full``."""
    tensor = full.to(device=like.device, dtype=like.dtype).detach()
    if not isinstance(like, DTensor):
        return tensor
    # Every rank has the same tensor: nothing is sent.
    return distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None)
