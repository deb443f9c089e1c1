"""Tensors of which each rank of a group holds a part (FSDP2's ``DTensor``), or all where nothing is sharded."""

import torch.distributed as dist
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor


def rank_and_size() -> tuple[int, int]:
    """This process's rank and the number of ranks: 0 and 1 outside a group."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)


def shard_like(full: Tensor, like: Tensor) -> Tensor:
    """This rank's part of ``full``, placed as ``like`` is; every rank must give the same ``full``."""
    tensor = full.to(device=like.device, dtype=like.dtype).detach()
    if not isinstance(like, DTensor):
        return tensor
    # Every rank has the same tensor: nothing is sent.
    return distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None)
