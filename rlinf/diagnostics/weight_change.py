"""How many directions of a weight matrix training has changed, and how far.

o outputs, i inputs (of a convolution: inputs times pixels), r rank of an adapter.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from rlinf.models.value_head import in_value_head
from transformers_openvla_oft.adapters import low_rank_product

PEFT_PREFIX = "base_model.model."


@dataclass(frozen=True)
class LayerChange:
    """Of one weight: effective rank of its change, and the change's size relative to the weight's (Frobenius norms)."""

    name: str
    effective_rank: float
    relative_norm: float


def effective_rank(singular_values: Tensor) -> float:
    """How many directions a matrix has, counted by their weight: the exponential of the entropy of its normalised
    singular values (Roy and Vetterli, EUSIPCO 2007); 0 of a matrix of zeros."""
    total = singular_values.sum()
    if total == 0:
        return 0.0
    share = singular_values / total
    share = share[share > 0]
    return float(torch.exp(-(share * share.log()).sum()))


def adapter_changes(module: nn.Module) -> list[LayerChange]:
    """Of every layer that the adapter in ``module`` changes, by ``alpha / r * B A``."""
    found = []
    for name, layer in _adapted(module).items():
        a_rI = layer.lora_A["default"].weight.detach().double().flatten(1)
        b_Or = layer.lora_B["default"].weight.detach().double().flatten(1)
        # B A has the singular values of the two triangles' product, which is as small as the rank.
        triangles = torch.linalg.qr(b_Or).R @ torch.linalg.qr(a_rI.T).R.T
        values = torch.linalg.svdvals(triangles) * layer.scaling["default"]
        weight = layer.get_base_layer().weight.detach().double()
        found.append(LayerChange(name, effective_rank(values), float(values.norm() / weight.norm())))
    return found


def changes(deltas: Iterable[tuple[str, Tensor]], base: nn.Module) -> list[LayerChange]:
    """Of every weight matrix. deltas: what was added to the weights of ``base``, by name."""
    before, found = dict(base.named_parameters()), []
    for name, delta in deltas:
        if delta.dim() > 1:
            values = torch.linalg.svdvals(delta.double().flatten(1))
            weight = before[name].detach().double()
            found.append(LayerChange(name, effective_rank(values), float(values.norm() / weight.norm())))
    return found


def adapter_deltas(module: nn.Module, base: nn.Module | None = None) -> Iterator[tuple[str, Tensor]]:
    """What the adapter in ``module`` adds to each weight, by the weight's name in a model without adapters. base: such
    a model, which no earlier adapters are merged into, either; what those add is then counted in."""
    before = {} if base is None else dict(base.named_parameters())
    for name, layer in _adapted(module).items():
        a, b = layer.lora_A["default"].weight.detach(), layer.lora_B["default"].weight.detach()
        delta, weight = low_rank_product(a, b) * layer.scaling["default"], layer.get_base_layer().weight.detach()
        plain = f"{name.removeprefix(PEFT_PREFIX)}.weight"
        yield plain, delta + (weight - before[plain].detach() if before else 0)


def whole_deltas(trained: nn.Module, base: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The difference of all weights but the value head's, between two models of the same architecture."""
    before = dict(base.named_parameters())
    for name, parameter in trained.named_parameters():
        if not in_value_head(name):
            yield name, parameter.detach() - before[name].detach()


def _adapted(module: nn.Module) -> dict[str, Any]:
    return {name: one for name, one in module.named_modules() if isinstance(one, LoraLayer)}


def means(changes: Iterable[LayerChange]) -> tuple[float, float]:
    """Mean effective rank and relative norm over the weights that changed; zeros where none did."""
    changed = [one for one in changes if one.relative_norm > 0]
    if not changed:
        return 0.0, 0.0
    ranks, norms = sum(one.effective_rank for one in changed), sum(one.relative_norm for one in changed)
    return ranks / len(changed), norms / len(changed)
