"""Linear layers with LoRA adapters that share an input, computed together.

An adapter's arithmetic is a fiftieth of its layer's, but the way PEFT writes it (two products, a multiplication and a
sum, each through memory) takes a fifth of a GPU's time. Here the layers' first products read their common input once,
and the second ones are taken where their sums are: on the way into a residual or an activation.

That is done in 16 bits on a GPU and for plain adapters that are switched on and not merged; else the layers are called.

Shapes: I inputs, O outputs, R rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.activations import ACT2FN

from . import operators
from .same_rounding import has_kernels, rows

SILU = type(ACT2FN["silu"])
MAX_SHARED_RANK = 128  # of all adapters whose first products are one: what a kernel's program computes at once


class _Adapted(NamedTuple):
    """`base(x) + scale * (x @ first.T) @ second.T`."""

    base: nn.Linear
    first_RI: Tensor
    second_OR: Tensor
    scale: float


def project(x: Tensor, *layers: nn.Module) -> tuple[Tensor, ...]:
    """What each of `layers` gives for `x` (..., I)."""
    parts = _adapted(x, layers)
    if parts is None:
        return tuple(layer(x) for layer in layers)
    inner = _first_product(x, parts).split([part.first_RI.shape[0] for part in parts], dim=1)
    return tuple(_summed(x, part, own, None) for part, own in zip(parts, inner, strict=True))


def added(residual: Tensor, x: Tensor, layer: nn.Module) -> Tensor:
    """`residual + layer(x)`, (..., O)."""
    parts = _adapted(x, (layer,))
    if parts is None:
        total: Tensor = residual + layer(x)
        return total
    return _summed(x, parts[0], _first_product(x, parts), residual)


def _summed(x: Tensor, part: _Adapted, inner_MR: Tensor, residual: Tensor | None) -> Tensor:
    """What a layer gives, and the residual's sum with it, from its adapter's first product."""
    base_MO = functional.linear(rows(x), part.base.weight, part.base.bias)
    residual_MO = None if residual is None else rows(residual)
    sum_MO: Tensor = operators.low_rank_sum(base_MO, inner_MR, part.second_OR, residual_MO, part.scale)
    return sum_MO.view(*x.shape[:-1], -1)


def gated(x: Tensor, gate: nn.Module, up: nn.Module, activation: nn.Module) -> Tensor:
    """`activation(gate(x)) * up(x)`, (..., I) -> (..., O)."""
    parts = _adapted(x, (gate, up))
    if parts is None or not _makes_swiglu(parts, activation):
        gated_by, value = project(x, gate, up)
        product: Tensor = activation(gated_by) * value
        return product
    of_gate, of_up = parts
    x_MI = rows(x)
    mixed_MO: Tensor = operators.swiglu(
        functional.linear(x_MI, of_gate.base.weight),
        functional.linear(x_MI, of_up.base.weight),
        _first_product(x, parts),
        of_gate.second_OR,
        of_up.second_OR,
        of_gate.scale,
    )
    return mixed_MO.view(*x.shape[:-1], -1)


def _first_product(x: Tensor, parts: Sequence[_Adapted]) -> Tensor:
    """(..., I) -> (M, R of all)."""
    product_MR: Tensor = operators.narrow_product(rows(x), torch.cat([part.first_RI for part in parts]))
    return product_MR


def _makes_swiglu(parts: Sequence[_Adapted], activation: nn.Module) -> bool:
    gate, up = parts
    return (
        isinstance(activation, SILU)
        and not any(part.base.bias is not None for part in parts)
        and gate.scale == up.scale
        and gate.second_OR.shape == up.second_OR.shape
    )


def _adapted(x: Tensor, layers: Sequence[nn.Module]) -> list[_Adapted] | None:
    """Their parts; None where they must be called."""
    parts = []
    for layer in layers:
        part = _parts_of(layer)
        if part is None or not all(has_kernels(x, w) for w in (part.base.weight, part.first_RI, part.second_OR)):
            return None
        parts.append(part)
    return parts if sum(part.first_RI.shape[0] for part in parts) <= MAX_SHARED_RANK else None


def _parts_of(layer: Any) -> _Adapted | None:
    """None for a layer without exactly one adapter of the plain kind that counts now."""
    if not hasattr(layer, "lora_A") or layer.disable_adapters or layer.merged or len(layer.active_adapters) != 1:
        return None
    base, name = layer.get_base_layer(), layer.active_adapters[0]
    if type(base) is not nn.Linear or name not in layer.lora_A or name in layer.lora_variant:
        return None
    dropout, second = layer.lora_dropout[name], layer.lora_B[name]
    if second.bias is not None or (not isinstance(dropout, nn.Identity) and dropout.training):
        return None
    return _Adapted(base, layer.lora_A[name].weight, second.weight, layer.scaling[name])
