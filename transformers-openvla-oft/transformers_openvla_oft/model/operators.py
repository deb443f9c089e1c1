"""The kernels as operators of PyTorch: what they compute without Triton, and their gradients.

`torch.compile` takes the kernels into its own code, so that calling them costs as little as its own.

Shapes: M rows, I inputs, O outputs, N columns, R rank of an adapter, H numbers in a row that is normalised.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor
from torch.library import triton_op
from torch.nn import functional

HAS_TRITON = find_spec("triton") is not None  # comes with PyTorch's builds for GPUs, not with those for Windows


@triton_op("openvla_oft::narrow_product", mutates_args={})
def narrow_product(x_MI: Tensor, weight_OI: Tensor) -> Tensor:
    """`x @ weight.T` for few outputs."""
    if not x_MI.is_cuda:
        return x_MI @ weight_OI.T
    from . import kernels

    return kernels.narrow_product(x_MI, weight_OI)


@triton_op("openvla_oft::low_rank_sum", mutates_args={})
def low_rank_sum(
    base_MN: Tensor, inner_MR: Tensor, weight_NR: Tensor, residual_MN: Tensor | None, scale: float
) -> Tensor:
    """`base + scale * inner @ weight.T`, and the residual's sum with it, where there is one."""
    if not base_MN.is_cuda:
        sum_MN = base_MN + scale * inner_MR @ weight_NR.T
        return sum_MN if residual_MN is None else residual_MN + sum_MN
    from . import kernels

    return kernels.low_rank_sum(base_MN, inner_MR, weight_NR, residual_MN, scale)


@triton_op("openvla_oft::swiglu", mutates_args={})
def swiglu(gate_MN: Tensor, up_MN: Tensor, inner_MR: Tensor, gate_NR: Tensor, up_NR: Tensor, scale: float) -> Tensor:
    """`silu(gate + scale * inner @ gate_NR.T) * (up + scale * inner' @ up_NR.T)`.

    inner_MR: what the first products of both adapters gave, the gate's before that of `up`: 2 R columns.
    """
    if not gate_MN.is_cuda:
        gate_MN, up_MN = _adapted(gate_MN, up_MN, inner_MR, gate_NR, up_NR, scale)
        return functional.silu(gate_MN) * up_MN
    from . import kernels

    return kernels.swiglu(gate_MN, up_MN, inner_MR, gate_NR, up_NR, scale)


@triton_op("openvla_oft::swiglu_backward", mutates_args={})
def swiglu_backward(
    grad_MN: Tensor, gate_MN: Tensor, up_MN: Tensor, inner_MR: Tensor, gate_NR: Tensor, up_NR: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """Gradients of `gate` and of `up`, both (M, N)."""
    if not gate_MN.is_cuda:
        gate_MN, up_MN = _adapted(gate_MN, up_MN, inner_MR, gate_NR, up_NR, scale)
        sigmoid_MN = gate_MN.sigmoid()
        slope_MN = sigmoid_MN * (1 + gate_MN * (1 - sigmoid_MN))
        return grad_MN * up_MN * slope_MN, grad_MN * gate_MN * sigmoid_MN
    from . import kernels

    return kernels.swiglu_backward(grad_MN, gate_MN, up_MN, inner_MR, gate_NR, up_NR, scale)


@triton_op("openvla_oft::rms_norm", mutates_args={})
def rms_norm(x: Tensor, weight_H: Tensor, epsilon: float) -> Tensor:
    """LLaMA's norm of every row (..., H), rounded once, at the end; transformers' rounds before the weight, too."""
    if not x.is_cuda:
        return functional.rms_norm(x, x.shape[-1:], weight_H, epsilon)
    from . import kernels

    return kernels.rms_norm(x, weight_H, epsilon)


@triton_op("openvla_oft::layer_norm", mutates_args={})
def layer_norm(x: Tensor, weight_H: Tensor, bias_H: Tensor, epsilon: float) -> Tensor:
    """Layer normalisation of every row (..., H), rounded once, at the end."""
    if not x.is_cuda:
        return functional.layer_norm(x, x.shape[-1:], weight_H, bias_H, epsilon)
    from . import kernels

    return kernels.layer_norm(x, weight_H, bias_H, epsilon)


def _adapted(
    gate_MN: Tensor, up_MN: Tensor, inner_MR: Tensor, gate_NR: Tensor, up_NR: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    of_gate_MR, of_up_MR = inner_MR.chunk(2, dim=1)
    return gate_MN + scale * of_gate_MR @ gate_NR.T, up_MN + scale * of_up_MR @ up_NR.T


def _scaled_product(a: Tensor, b: Tensor, scale: float) -> Tensor:
    """`scale * a @ b` in one launch."""
    return torch.addmm(b[:1], a, b, beta=0, alpha=scale)  # with beta=0 the first argument is not read


def _keep_tensors(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _keep_tensors_and_number(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.number = inputs
    ctx.save_for_backward(*tensors)


def _narrow_product_gradients(ctx: Any, grad_MO: Tensor) -> tuple[Tensor | None, Tensor | None]:
    x_MI, weight_OI = ctx.saved_tensors
    of_x, of_weight = ctx.needs_input_grad
    return grad_MO @ weight_OI if of_x else None, grad_MO.T @ x_MI if of_weight else None


def _keep_products(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, inner_MR, weight_NR, _, ctx.number = inputs
    ctx.save_for_backward(inner_MR, weight_NR)


def _low_rank_sum_gradients(ctx: Any, grad_MN: Tensor) -> tuple[Tensor | None, ...]:
    inner_MR, weight_NR = ctx.saved_tensors
    of_base, of_inner, of_weight, of_residual, _ = ctx.needs_input_grad
    return (
        grad_MN if of_base else None,
        _scaled_product(grad_MN, weight_NR, ctx.number) if of_inner else None,
        _scaled_product(grad_MN.T, inner_MR, ctx.number) if of_weight else None,
        grad_MN if of_residual else None,
        None,
    )


def _swiglu_gradients(ctx: Any, grad_MN: Tensor) -> tuple[Tensor | None, ...]:
    gate_MN, up_MN, inner_MR, gate_NR, up_NR = ctx.saved_tensors
    scale = ctx.number
    grads_MN = swiglu_backward(grad_MN, gate_MN, up_MN, inner_MR, gate_NR, up_NR, scale)
    *_, of_inner, of_gate_weight, of_up_weight, _ = ctx.needs_input_grad
    inner = inner_MR.chunk(2, dim=1)
    grad_inner_MR: Tensor | None = None
    grads_NR: list[Tensor | None] = [None, None]
    if of_inner:
        pairs = zip(grads_MN, (gate_NR, up_NR), strict=True)
        grad_inner_MR = torch.cat([_scaled_product(grad, weight, scale) for grad, weight in pairs], dim=1)
    for which, needed in enumerate((of_gate_weight, of_up_weight)):
        if needed:
            grads_NR[which] = _scaled_product(grads_MN[which].T, inner[which], scale)
    return *grads_MN, grad_inner_MR, *grads_NR, None


def _rms_norm_gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return _norm_gradients(ctx, functional.rms_norm, grad)


def _layer_norm_gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return _norm_gradients(ctx, functional.layer_norm, grad)


def _norm_gradients(ctx: Any, norm: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    """PyTorch's own, of a second run: cheaper than to keep what the first one knew."""
    with torch.enable_grad():
        inputs = [
            tensor.detach().requires_grad_(needed)
            for tensor, needed in zip(ctx.saved_tensors, ctx.needs_input_grad, strict=False)
        ]
        output = norm(inputs[0], inputs[0].shape[-1:], *inputs[1:], ctx.number)
    found = iter(torch.autograd.grad(output, [tensor for tensor in inputs if tensor.requires_grad], grad))
    return *(next(found) if tensor.requires_grad else None for tensor in inputs), None


narrow_product.register_autograd(_narrow_product_gradients, setup_context=_keep_tensors)
low_rank_sum.register_autograd(_low_rank_sum_gradients, setup_context=_keep_products)
swiglu.register_autograd(_swiglu_gradients, setup_context=_keep_tensors_and_number)
rms_norm.register_autograd(_rms_norm_gradients, setup_context=_keep_tensors_and_number)
layer_norm.register_autograd(_layer_norm_gradients, setup_context=_keep_tensors_and_number)
