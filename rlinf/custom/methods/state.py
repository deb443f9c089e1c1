"""What a method keeps of earlier tasks: tensors by name beside the adapter. Shards in memory, whole on disk."""

from collections.abc import Mapping
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor

from rlinf.config import ConfigError

METHOD_STATE = "method_state.safetensors"


def gather_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Whole tensors in CPU memory. Collective where tensors are sharded."""
    return {name: (t.full_tensor() if isinstance(t, DTensor) else t).detach().cpu() for name, t in state.items()}


def write_state(folder: Path, state: Mapping[str, Tensor]) -> None:
    """Write whole tensors into an actor folder; nothing where there is no state."""
    if state:
        save_file({name: tensor.contiguous() for name, tensor in state.items()}, folder / METHOD_STATE)


def read_state(folder: Path) -> dict[str, Tensor]:
    """Whole tensors of an actor folder; empty where the method stored none."""
    path = folder / METHOD_STATE
    return load_file(path) if path.is_file() else {}


def require_state(folder: Path, *, method: str) -> Path:
    """The file with a method's state.

    Raises:
        ConfigError: it is missing; names it.
    """
    path = folder / METHOD_STATE
    if not path.is_file():
        raise ConfigError(
            f"method {method} needs what it stored at the end of the earlier tasks, but {path} does not exist: "
            f"the checkpoint was not trained with {method}. Train the earlier tasks with method={method}, or start "
            "from the base model"
        )
    return path


def shard_like(whole: Tensor, like: Tensor) -> Tensor:
    """This rank's part of ``whole``, placed as ``like`` is; every rank must give the same ``whole``."""
    tensor = whole.to(device=like.device, dtype=like.dtype)
    if not isinstance(like, DTensor):
        return tensor
    # Every rank has read the same file: nothing is sent.
    return distribute_tensor(tensor, like.device_mesh, like.placements, src_data_rank=None)


def local(tensor: Tensor) -> Tensor:
    """The elements of a parameter or gradient that this rank holds; changing them in place changes the tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def inner_product(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> Tensor:
    """Sum of products over all elements of tensors in both, float64. Collective where tensors are sharded."""
    pairs = [(left[name], right[name]) for name in left if name in right]
    total = torch.zeros((), dtype=torch.float64, device=local(pairs[0][0]).device if pairs else "cpu")
    for a, b in pairs:
        total += (local(a).double() * local(b).double()).sum()
    if any(isinstance(a, DTensor) for a, _ in pairs):
        dist.all_reduce(total)
    return total
