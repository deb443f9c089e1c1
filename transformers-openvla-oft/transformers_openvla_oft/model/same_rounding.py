"""Norms and narrow products that round in the same way whoever calls them on a GPU.

Rollouts and updates must agree on log-probabilities, or PPO's ratios start away from 1. In 16 bits they differ as soon
as a sum is taken in another order. Two kinds of operators did that: norms, which `torch.compile` fuses with their
neighbours in one way with gradients and in another without, and products with few outputs (an adapter's first ones, and
the few rows of the output layer that are actions), whose sums cuBLAS splits as the batch's size suggests. Each has one
kernel (`kernels`), which the compiler does not change. Measured in bfloat16 on one H200, with PyTorch's attention and
parallel decoding: prompts of one length then have the same log-probabilities, bit by bit, in rollouts and in updates,
in batches of 1, 8, 16 and 32. Tokens decoded one by one from a cache still differ from those that are scored at once.

On other devices and for numbers of other sizes these are the layers of PyTorch and transformers.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from transformers import LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from . import operators

MAX_OUTPUTS = 256  # of a narrow product
SHORT_TYPES = (torch.bfloat16, torch.float16)


class LayerNorm(nn.LayerNorm):
    """`nn.LayerNorm` over the last axis."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., H) -> (..., H)."""
        if not has_kernels(x, self.weight):
            return super().forward(x)
        normed: Tensor = operators.layer_norm(x.contiguous(), self.weight, self.bias, self.eps)
        return normed


class RMSNorm(LlamaRMSNorm):
    """LLaMA's norm. The GPU's kernel rounds once, at the end; transformers' code also before it applies the weight."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(..., H) -> (..., H)."""
        if not has_kernels(hidden_states, self.weight):
            return super().forward(hidden_states)
        normed: Tensor = operators.rms_norm(hidden_states.contiguous(), self.weight, self.variance_epsilon)
        return normed


class NarrowLinear(nn.Linear):
    """A linear layer without bias that has few outputs, or of which few rows are used."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., I) -> (..., O)."""
        num_outputs = self.weight.shape[0]  # not `out_features`: callers may put fewer rows in the weight's place
        if not (has_kernels(x, self.weight) and num_outputs <= MAX_OUTPUTS):
            return super().forward(x)
        product_MO: Tensor = operators.narrow_product(rows(x), self.weight)
        return product_MO.view(*x.shape[:-1], num_outputs)


def use_in(model: LlamaForCausalLM) -> None:
    """Replace the norms and the output layer of a model that has just been made."""
    llama = model.model
    size, epsilon = llama.config.hidden_size, llama.config.rms_norm_eps
    llama.norm = RMSNorm(size, epsilon)
    for layer in llama.layers:
        layer.input_layernorm, layer.post_attention_layernorm = RMSNorm(size, epsilon), RMSNorm(size, epsilon)
    model.lm_head = narrow(model.lm_head)


def use_in_adapters(first_products: Iterable[nn.ModuleDict]) -> None:
    """Replace the linear layers among the first products of adapters, which are found by their adapters' names."""
    for by_name in first_products:
        for name, layer in by_name.items():
            if type(layer) is nn.Linear:  # embeddings and convolutions have other layers
                by_name[name] = narrow(layer)


def narrow(layer: nn.Linear) -> NarrowLinear:
    """The same layer, with the same parameter."""
    same = NarrowLinear(layer.in_features, layer.out_features, bias=False, device="meta")
    same.weight = layer.weight
    return same.train(layer.training)


def has_kernels(x: Tensor, weight: Tensor) -> bool:
    """Whether products of these run through the kernels: both have the same 16 bits, on a GPU."""
    return operators.HAS_TRITON and x.is_cuda and x.dtype in SHORT_TYPES and weight.dtype == x.dtype


def rows(x: Tensor) -> Tensor:
    """(..., H) -> (M, H)."""
    return x.reshape(-1, x.shape[-1]).contiguous()
