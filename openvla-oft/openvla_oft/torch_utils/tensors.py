"""Whole tensors, shards and trained parameters of a module, whether or not FSDP2 shards it."""

from collections.abc import Mapping

from torch import Tensor, nn
from torch.distributed.tensor import DTensor


def whole(tensor: Tensor) -> Tensor:
    """The whole tensor behind a shard, detached. Collective when ``tensor`` is sharded."""
    return tensor.full_tensor().detach() if isinstance(tensor, DTensor) else tensor.detach()


def local(tensor: Tensor) -> Tensor:
    """This rank's shard, or the tensor itself where nothing is sharded; shares its memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def trainable_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters that are trained, by name; names are equal with and without sharding."""
    return {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}


def gather(tensors: Mapping[str, Tensor], *, keep: bool) -> dict[str, Tensor]:
    """Whole copies in CPU memory where ``keep``, nothing elsewhere; one tensor at a time. Collective."""
    kept = {}
    for name, tensor in tensors.items():
        value = whole(tensor)
        if keep:
            kept[name] = value.cpu().clone()
    return kept
