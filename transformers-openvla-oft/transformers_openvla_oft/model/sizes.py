"""Which sizes vary from batch to batch, for `torch.compile`."""

from __future__ import annotations

import torch
from torch import Tensor


def any_size(tensor: Tensor, *axes: int) -> Tensor:
    """The same tensor; code that is compiled for it serves all sizes of these axes but 1.

    Told for every axis (`dynamic=True`), compiled code computes where each number lies: a GPU took 15 % longer for an
    update, and to compile took 70 s instead of 40 (docs/benchmarks.md).
    """
    if not torch.compiler.is_compiling():
        for axis in axes:
            torch._dynamo.maybe_mark_dynamic(tensor, axis)
    return tensor
