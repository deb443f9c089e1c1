"""A few rows of a large output layer."""

from __future__ import annotations

from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.func import functional_call

from .same_rounding import NarrowLinear


def project_rows(head: nn.Module, hidden: Tensor, rows: slice) -> Tensor:
    """What `head(hidden)[..., rows]` gives, values and gradients, without computing the other columns.

    head: a linear layer, or one with a LoRA adapter around it. It is called as it is, hooks included, with its own
    parameters cut to `rows`; every one with an entry per output is cut, so that the adapter's `lora_B` is too.
    """
    if not _can_be_cut(head):
        whole: Tensor = head(hidden)
        return whole[..., rows]
    num_outputs = _num_outputs(head)
    cut = {
        name: parameter[rows]
        for name, parameter in head.named_parameters()
        if parameter.shape[0] == num_outputs and ".lora_A." not in f".{name}"
    }
    logits: Tensor = functional_call(head, cut, (hidden,))
    return logits


def _num_outputs(head: nn.Module) -> int:
    weight = getattr(head, "weight", None)  # PEFT's layers answer with their base layer's
    assert isinstance(weight, Tensor)
    return int(weight.shape[0])


def _can_be_cut(head: nn.Module) -> bool:
    """False for a layer that is sharded by itself (its hook brings the whole weight), one that is quantised, and a
    merged adapter that is to be switched off (PEFT then changes the whole weight in place)."""
    if getattr(head, "merged", False) and getattr(head, "disable_adapters", False):
        return False
    base_of = getattr(head, "get_base_layer", None)
    leaf = head if base_of is None else base_of()
    return type(leaf) in (nn.Linear, NarrowLinear) and not any(
        isinstance(parameter, DTensor) for parameter in head.parameters()
    )
