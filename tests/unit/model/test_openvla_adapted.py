"""Projections that share an input, computed together, against the same layers called one by one.

They are computed together in 16 bits on a GPU only; here that condition is lifted, and operators run plainly.
"""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.testing import assert_close

from transformers_openvla_oft.model import adapted, operators
from transformers_openvla_oft.model.adapted import SILU, gated, project


class Layers(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate, self.up, self.biased = nn.Linear(8, 6, bias=False), nn.Linear(8, 6, bias=False), nn.Linear(8, 5)


@pytest.fixture
def together(monkeypatch):
    """Counts the products of adapters that are taken together."""
    calls = []
    product = operators.narrow_product

    def counting(x_MI, weight_OI):
        calls.append(len(weight_OI))
        return product(x_MI, weight_OI)

    monkeypatch.setattr(adapted, "has_kernels", lambda x, weight: x.dtype == weight.dtype)
    monkeypatch.setattr(operators, "narrow_product", counting)
    return calls


def layers(*names, rank=3, dropout=0.0, alpha=1):
    torch.manual_seed(0)
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(names), lora_dropout=dropout)
    wrapped = get_peft_model(Layers(), config).double()
    for parameter in wrapped.parameters():
        nn.init.normal_(parameter)
    return wrapped.get_base_model()


def outcome(function, modules):
    """Results, and gradients of the input and of every parameter."""
    x = torch.randn(2, 4, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    results = function(x)
    parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
    loss = sum((result * (index + 1)).sin().sum() for index, result in enumerate(results))
    return results, torch.autograd.grad(loss, [x, *parameters])


def test_projections_of_one_input(together):
    model = layers("gate", "up", "biased", alpha=2)
    modules = model.gate, model.up, model.biased
    assert_close(outcome(lambda x: project(x, *modules), modules), outcome(lambda x: [m(x) for m in modules], modules))
    assert together == [9]


def test_a_gated_mlp(together):
    model = layers("gate", "up", alpha=2)
    modules = model.gate, model.up
    expected = outcome(lambda x: [SILU()(model.gate(x)) * model.up(x)], modules)
    assert_close(outcome(lambda x: [gated(x, *modules, SILU())], modules), expected)
    assert together == [6]
    gelu = [nn.GELU()(model.gate(torch.ones(8).double())) * model.up(torch.ones(8).double())]
    assert_close([gated(torch.ones(8).double(), *modules, nn.GELU())], gelu)


def merged(model):
    model.gate.merge()


def switched_off(model):
    model.gate.enable_adapters(False)


def scaled(model):
    model.gate.scaling["default"] = 0.5


@pytest.mark.parametrize("change", [merged, switched_off, scaled])
def test_layers_that_are_not_alike(together, change):
    """They are called, or scaled each by its own factor."""
    model = layers("gate", "up")
    change(model)
    modules = model.gate, model.up
    x = torch.randn(3, 8, dtype=torch.float64)
    assert_close(gated(x, *modules, SILU()), SILU()(model.gate(x)) * model.up(x))
    assert bool(together) == (change is scaled)


@pytest.mark.parametrize("names", [("gate",), ("gate", "up")])
def test_layers_without_adapters_and_with_dropout_are_called(together, names):
    model = layers(*names, dropout=0.5).train()
    modules = model.gate, model.up
    x = torch.randn(3, 8, dtype=torch.float64)
    torch.manual_seed(0)
    ours = project(x, *modules)
    torch.manual_seed(0)
    assert_close(list(ours), [module(x) for module in modules])
    assert not together
    assert_close(list(project(x, *(m.eval() for m in modules))), [module(x) for module in modules])
    assert bool(together) == (len(names) == 2)


def test_numbers_of_another_kind_are_left_to_the_layers(together):
    model = layers("gate", "up")
    x = torch.randn(3, 8)
    with pytest.raises(RuntimeError, match="dtype"):
        project(x, model.gate, model.up)
    assert not together
