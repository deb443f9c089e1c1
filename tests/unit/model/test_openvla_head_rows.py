"""The action bins' rows of the output layer equal the whole layer's columns, in values and in gradients."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.testing import assert_close

from tests.small_policy import read_policy
from transformers_openvla_oft.model.heads import project_rows

HIDDEN, OUTPUTS, ROWS = 24, 640, slice(320, 576)


class Model(nn.Module):
    def __init__(self, *, bias=False):
        super().__init__()
        self.lm_head = nn.Linear(HIDDEN, OUTPUTS, bias=bias)

    def forward(self, hidden):
        return self.lm_head(hidden)


def adapted(*, bias=False, dtype=torch.float32):
    """A head with an adapter that has an effect, everything trainable."""
    torch.manual_seed(0)
    config = LoraConfig(r=4, lora_alpha=6, target_modules=["lm_head"])
    wrapped = get_peft_model(Model(bias=bias).to(dtype), config)
    return adapter_on(wrapped)


def adapter_on(wrapped):
    for name, parameter in wrapped.named_parameters():
        parameter.requires_grad_(True)
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.3)
    return wrapped.base_model.model.lm_head


def plain():
    torch.manual_seed(0)
    return Model().lm_head


def two_adapters():
    torch.manual_seed(0)
    config = LoraConfig(r=4, lora_alpha=6, target_modules=["lm_head"])
    wrapped = get_peft_model(Model(), config)
    wrapped.add_adapter("second", LoraConfig(r=3, lora_alpha=3, target_modules=["lm_head"]))
    wrapped.base_model.set_adapter(["default", "second"])
    return adapter_on(wrapped)


def merged():
    head = adapted()
    head.merge()
    return head


def merged_and_off():
    head = merged()
    head.enable_adapters(enabled=False)
    return head


HEADS = {
    "plain": plain,
    "lora": adapted,
    "lora with bias": lambda: adapted(bias=True),
    "lora in bf16": lambda: adapted(dtype=torch.bfloat16),
    "two adapters": two_adapters,
    "merged": merged,
    "merged and off": merged_and_off,
}


@pytest.mark.parametrize("name", HEADS)
def test_values_and_gradients_are_those_of_the_whole_layer(name):
    head = HEADS[name]()
    whole = copy.deepcopy(head)
    dtype = head.weight.dtype
    inputs = [torch.randn(2, 5, HIDDEN, generator=torch.Generator().manual_seed(1)).to(dtype) for _ in range(2)]
    for tensor in inputs:
        tensor.requires_grad_(True)
    actual, expected = project_rows(head, inputs[0], ROWS), whole(inputs[1])[..., ROWS]
    assert actual.dtype == expected.dtype
    exact = {"rtol": 0, "atol": 0} if dtype == torch.bfloat16 else {}
    assert_close(actual, expected, **exact)
    for output in (actual, expected):
        output.float().pow(2).sum().backward()
    tolerance = {"rtol": 1e-2, "atol": 1e-2} if dtype == torch.bfloat16 else {"rtol": 1e-5, "atol": 1e-5}
    assert_close(inputs[0].grad, inputs[1].grad, **tolerance)
    for (key, own), other in zip(head.named_parameters(), whole.parameters(), strict=True):
        assert own.shape == other.shape
        if other.grad is None:
            assert own.grad is None, key
        else:
            assert_close(own.grad, other.grad, **tolerance, msg=key)


def test_only_those_rows_are_computed_and_hooks_fire():
    head, seen = adapted(), []
    for module in (head, head.get_base_layer(), head.lora_B["default"]):
        module.register_forward_hook(lambda _module, _inputs, output: seen.append(output.shape[-1]))
    project_rows(head, torch.randn(3, HIDDEN), ROWS)
    assert seen == [256, 256, 256]


def test_the_parameters_are_whole_again_afterwards():
    head = adapted()
    before = dict(head.named_parameters())
    project_rows(head, torch.randn(3, HIDDEN), ROWS)
    assert all(parameter is before[name] for name, parameter in head.named_parameters())


def test_a_policy_computes_the_bins_only(small_policy):
    policy = read_policy(small_policy)
    model = policy.module.get_base_model()
    seen = []
    model.language_model.lm_head.register_forward_hook(lambda _module, _inputs, output: seen.append(output.shape))
    batch = policy.processor(torch.zeros(2, 1, 32, 32, 3, dtype=torch.uint8), ["open it", "close it"])
    logits_BTV = policy.decode(batch).logits_BTV
    assert seen == [(2, 56, 256)]
    assert logits_BTV.shape == (2, 56, 256)
