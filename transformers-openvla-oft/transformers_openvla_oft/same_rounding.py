"""Norms and narrow products that round in the same way whoever calls them on a GPU.

Rollouts and updates must agree on log-probabilities, or PPO's ratios start away from 1. In 16 bits they differ as soon
as a sum is taken in another order. Two kinds of operators did that: norms, which `torch.compile` fuses with their
neighbours in one way with gradients and in another without, and products with few outputs (an adapter's first ones, and
the few rows of the output layer that are actions), whose sums cuBLAS splits as the batch's size suggests. Each has one
kernel here, which the compiler does not look into. Measured in bfloat16 on one H200, with PyTorch's attention and
parallel decoding: prompts of one length then have the same log-probabilities, bit by bit, in rollouts and in updates,
in batches of 1, 8, 16 and 32. Tokens decoded one by one from a cache still differ from those that are scored at once.

On other devices and for numbers of other sizes these are the layers of PyTorch and transformers.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaRMSNorm

MAX_OUTPUTS = 256  # of a narrow product
SHORT_TYPES = (torch.bfloat16, torch.float16)
HAS_TRITON = find_spec("triton") is not None  # comes with PyTorch's builds for GPUs, not with those for Windows


class LayerNorm(nn.LayerNorm):
    """`nn.LayerNorm` over the last axis."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        if not _is_short_on_gpu(x, self.weight):
            return super().forward(x)
        normed: Tensor = _layer_norm(x.contiguous(), self.weight, self.bias, self.eps)
        return normed


class RMSNorm(LlamaRMSNorm):
    """LLaMA's norm. The GPU's kernel rounds once, at the end; transformers' code also before it applies the weight."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        """(..., H) -> (..., H)."""
        if not _is_short_on_gpu(hidden_states, self.weight):
            return super().forward(hidden_states)
        normed: Tensor = _rms_norm(hidden_states.contiguous(), self.weight, self.variance_epsilon)
        return normed


class NarrowLinear(nn.Linear):
    """A linear layer without bias that has few outputs, or of which few rows are used."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., I) -> (..., O)."""
        if not (HAS_TRITON and _is_short_on_gpu(x, self.weight) and len(self.weight) <= MAX_OUTPUTS):
            return super().forward(x)
        product: Tensor = _narrow_product(x.reshape(-1, x.shape[-1]), self.weight)
        return product.view(*x.shape[:-1], len(self.weight))


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


def _is_short_on_gpu(x: Tensor, weight: Tensor) -> bool:
    return x.is_cuda and x.dtype in SHORT_TYPES and weight.dtype == x.dtype


@torch.library.custom_op("openvla_oft::rms_norm", mutates_args=())
def _rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    return functional.rms_norm(x, x.shape[-1:], weight, epsilon)


@torch.library.custom_op("openvla_oft::layer_norm", mutates_args=())
def _layer_norm(x: Tensor, weight: Tensor, bias: Tensor, epsilon: float) -> Tensor:
    return functional.layer_norm(x, x.shape[-1:], weight, bias, epsilon)


@torch.library.custom_op("openvla_oft::narrow_product", mutates_args=())
def _narrow_product(x_MI: Tensor, weight_OI: Tensor) -> Tensor:
    from .narrow_product import multiply  # needs triton

    return multiply(x_MI, weight_OI)


# What the compiler is told of them: shapes, and gradients.


@_rms_norm.register_fake
def _(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    return x.new_empty(x.shape)


@_layer_norm.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor, epsilon: float) -> Tensor:
    return x.new_empty(x.shape)


@_narrow_product.register_fake
def _(x_MI: Tensor, weight_OI: Tensor) -> Tensor:
    return x_MI.new_empty(x_MI.shape[0], weight_OI.shape[0])  # `len` would fix the number of rows for good


def _keep_norm(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.epsilon = inputs
    ctx.save_for_backward(*tensors)


def _rms_norm_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return _norm_gradients(ctx, functional.rms_norm, grad)


def _layer_norm_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return _norm_gradients(ctx, functional.layer_norm, grad)


def _norm_gradients(ctx: Any, norm: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    """PyTorch's own, of a second run: cheaper than to keep what the first one knew."""
    with torch.enable_grad():
        inputs = [
            tensor.detach().requires_grad_(needed)
            for tensor, needed in zip(ctx.saved_tensors, ctx.needs_input_grad, strict=False)
        ]
        output = norm(inputs[0], inputs[0].shape[-1:], *inputs[1:], ctx.epsilon)
    found = iter(torch.autograd.grad(output, [tensor for tensor in inputs if tensor.requires_grad], grad))
    return *(next(found) if tensor.requires_grad else None for tensor in inputs), None


def _keep_product(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _product_backward(ctx: Any, grad_MO: Tensor) -> tuple[Tensor | None, Tensor | None]:
    x_MI, weight_OI = ctx.saved_tensors
    of_x, of_weight = ctx.needs_input_grad
    return grad_MO @ weight_OI if of_x else None, grad_MO.T @ x_MI if of_weight else None


_rms_norm.register_autograd(_rms_norm_backward, setup_context=_keep_norm)
_layer_norm.register_autograd(_layer_norm_backward, setup_context=_keep_norm)
_narrow_product.register_autograd(_product_backward, setup_context=_keep_product)
