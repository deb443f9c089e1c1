"""Triton kernels. Needs `triton`, which PyTorch's builds for GPUs bring along.

A row's result never depends on the other rows: block sizes follow from a row's length alone. That is what makes
rollouts and updates, whose batches differ, agree bit by bit (see `same_rounding`). Sums are in float32.

Shapes: M rows, I inputs, O outputs, N columns, R rank of an adapter, H numbers in a row that is normalised. Rows that
are written (...) may have any number of axes. What an adapter is added to is contiguous.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.library import wrap_triton
from triton.runtime.jit import JITFunction

BLOCK_ROWS = 64
MAX_BLOCK_OUTPUTS = 128  # that one program computes, reading its inputs once
BLOCK = (32, 128)  # rows and columns of what an adapter is added to
SWIGLU_BLOCK = (64, 64, 4)  # and how many of them, one beside the other, a program goes through
SWIGLU_BACKWARD_BLOCK = (32, 64, 4)
MIN_BLOCK = 16  # of any side of a matrix product


def narrow_product(x_MI: Tensor, weight_OI: Tensor) -> Tensor:
    """`x @ weight.T` in the format of `x`. Made for few outputs: reads `x` once for up to 128 of them."""
    x_MI, weight_OI = _in_rows(x_MI), _in_rows(weight_OI)
    (num_rows, num_inputs), num_outputs = x_MI.shape, weight_OI.shape[0]
    product_MO = x_MI.new_empty(num_rows, num_outputs)
    # Products with more outputs (an output layer's) have few rows: small blocks give them more programs.
    block_outputs = _block(num_outputs) if num_outputs <= MAX_BLOCK_OUTPUTS else 32
    grid = _count(num_rows, BLOCK_ROWS), _count(num_outputs, block_outputs)
    with _device_of(x_MI):
        _launchable(_narrow_product)[grid](
            x_MI, weight_OI, product_MO, num_rows, num_outputs, x_MI.stride(0), weight_OI.stride(0), num_inputs,
            BLOCK_ROWS, block_outputs, 128 if block_outputs <= 32 else 64, num_warps=4, num_stages=4,
        )  # fmt: skip
    return product_MO


def low_rank_sum(
    base_MN: Tensor, inner_MR: Tensor, weight_NR: Tensor, residual_MN: Tensor | None, scale: float
) -> Tensor:
    """`base + scale * inner @ weight.T`, rounded, and then the residual's sum with it, where there is one.

    inner_MR: may be some columns of a wider matrix.
    """
    sum_MN, weight_NR = torch.empty_like(base_MN), weight_NR.contiguous()
    (num_rows, num_columns), rank = base_MN.shape, weight_NR.shape[1]
    has_residual = residual_MN is not None
    with _device_of(base_MN):
        _launchable(_low_rank_sum)[_count(num_rows, BLOCK[0]), _count(num_columns, BLOCK[1])](
            base_MN, inner_MR, weight_NR, residual_MN if has_residual else base_MN, sum_MN, num_rows, num_columns,
            inner_MR.stride(0), scale, *BLOCK, rank, _block(rank), has_residual, num_warps=4,
        )  # fmt: skip
    return sum_MN


def swiglu(gate_MN: Tensor, up_MN: Tensor, inner_MR: Tensor, gate_NR: Tensor, up_NR: Tensor, scale: float) -> Tensor:
    """`silu(gate + scale * inner @ gate_NR.T) * (up + scale * inner' @ up_NR.T)`.

    inner_MR: of both adapters, the gate's first: 2 R columns. Rounds once, at the end.
    """
    mixed_MN = torch.empty_like(gate_MN)
    given = (gate_MN, up_MN, inner_MR, gate_NR.contiguous(), up_NR.contiguous(), mixed_MN)
    _launch_swiglu(_swiglu, given, scale, SWIGLU_BLOCK)
    return mixed_MN


def swiglu_backward(
    grad_MN: Tensor, gate_MN: Tensor, up_MN: Tensor, inner_MR: Tensor, gate_NR: Tensor, up_NR: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """Gradients of `gate` and of `up`, both (M, N)."""
    grad_gate_MN, grad_up_MN = torch.empty_like(gate_MN), torch.empty_like(up_MN)
    weights = gate_NR.contiguous(), up_NR.contiguous()
    given = (gate_MN, up_MN, inner_MR, *weights, grad_MN.contiguous(), grad_gate_MN, grad_up_MN)
    _launch_swiglu(_swiglu_backward, given, scale, SWIGLU_BACKWARD_BLOCK)
    return grad_gate_MN, grad_up_MN


def _launch_swiglu(kernel: Any, tensors: tuple[Tensor, ...], scale: float, block: tuple[int, int, int]) -> None:
    gate_MN, inner_MR, gate_NR = tensors[0], tensors[2], tensors[3]
    (num_rows, num_columns), rank = gate_MN.shape, gate_NR.shape[1]
    rows, columns, steps = block
    with _device_of(gate_MN):
        _launchable(kernel)[_count(num_rows, rows), _count(num_columns, columns * steps)](
            *tensors, num_rows, num_columns, inner_MR.stride(0), scale, rows, columns, steps, rank, _block(rank),
            num_warps=4,
        )  # fmt: skip


def rms_norm(x: Tensor, weight_H: Tensor, epsilon: float) -> Tensor:
    """LLaMA's norm of every row of `x` (..., H), rounded once, at the end."""
    normed, size = torch.empty_like(x), weight_H.shape[0]
    with _device_of(x):
        _launchable(_rms_norm)[(x.numel() // size,)](
            x, weight_H, normed, size, epsilon, _block(size), num_warps=_norm_warps(size)
        )
    return normed


def layer_norm(x: Tensor, weight_H: Tensor, bias_H: Tensor, epsilon: float) -> Tensor:
    """Layer normalisation of every row of `x` (..., H), rounded once, at the end."""
    normed, size = torch.empty_like(x), weight_H.shape[0]
    with _device_of(x):
        _launchable(_layer_norm)[(x.numel() // size,)](
            x, weight_H, bias_H, normed, size, epsilon, _block(size), num_warps=_norm_warps(size)
        )
    return normed


def _norm_warps(size: int) -> int:
    return 4 if size > 2048 else 2


def _block(size: int) -> int:
    return max(MIN_BLOCK, 1 << (size - 1).bit_length())


def _count(size: int, block: int) -> int:
    return -(-size // block)


def _in_rows(matrix: Tensor) -> Tensor:
    return matrix if matrix.stride(1) == 1 else matrix.contiguous()


def _device_of(tensor: Tensor) -> AbstractContextManager[object]:
    """Triton launches on the current device; one that is only traced need not exist."""
    return torch.cuda.device(tensor.device) if tensor.is_cuda and torch.cuda.is_available() else nullcontext()


def _launchable(kernel: Any) -> Any:
    """A kernel that `torch.compile` may take into its code; interpreted ones (TRITON_INTERPRET=1) it cannot."""
    return wrap_triton(kernel) if isinstance(kernel, JITFunction) else kernel


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _narrow_product(
    x: tl.tensor,
    weight: tl.tensor,
    product: tl.tensor,
    num_rows: tl.tensor,
    num_outputs: tl.tensor,
    x_stride: tl.tensor,
    weight_stride: tl.tensor,
    num_inputs: tl.constexpr,
    ROWS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    INPUTS: tl.constexpr,
) -> None:
    m = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    o = tl.program_id(1) * OUTPUTS + tl.arange(0, OUTPUTS)
    i = tl.arange(0, INPUTS)
    # In 64 bits: rows times their length pass 2^31 in large batches.
    x += m[:, None].to(tl.int64) * x_stride + i[None, :]
    weight += o[None, :].to(tl.int64) * weight_stride + i[:, None]
    total = tl.zeros((ROWS, OUTPUTS), tl.float32)
    for start in range(0, num_inputs, INPUTS):
        left = num_inputs - start
        x_block = tl.load(x + start, mask=(m[:, None] < num_rows) & (i[None, :] < left), other=0.0)
        weight_block = tl.load(weight + start, mask=(o[None, :] < num_outputs) & (i[:, None] < left), other=0.0)
        total = tl.dot(x_block, weight_block, total)
    product += m[:, None].to(tl.int64) * num_outputs + o[None, :]
    inside = (m[:, None] < num_rows) & (o[None, :] < num_outputs)
    tl.store(product, total.to(product.dtype.element_ty), mask=inside)


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _places(
    first: tl.tensor, n: tl.tensor, num_rows: tl.tensor, num_columns: tl.tensor, ROWS: tl.constexpr
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """Where the block of `ROWS` rows begins, its numbers' places from there, and which of them there are.

    Only the beginning is counted in 64 bits: rows times their length pass 2^31, but not within a block. Arithmetic
    counts in these kernels, with places too: the gated activation took 425 microseconds instead of 551 like this.
    """
    m = tl.arange(0, ROWS)
    at = m[:, None] * num_columns + n[None, :]
    inside = (first + m[:, None] < num_rows) & (n[None, :] < num_columns)
    return first.to(tl.int64) * num_columns, at, inside


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _block_of(matrix: tl.tensor, at: tl.tensor, inside: tl.tensor) -> tl.tensor:
    return tl.load(matrix + at, mask=inside, other=0.0).to(tl.float32)


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _inner_block(
    inner: tl.tensor,
    m: tl.tensor,
    num_rows: tl.tensor,
    stride: tl.tensor,
    rank: tl.constexpr,
    RANK: tl.constexpr,
) -> tl.tensor:
    r = tl.arange(0, RANK)
    at = m[:, None].to(tl.int64) * stride + r[None, :]
    return tl.load(inner + at, mask=(m[:, None] < num_rows) & (r[None, :] < rank), other=0.0)


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _weight_block(
    weight: tl.tensor, n: tl.tensor, num_columns: tl.tensor, rank: tl.constexpr, RANK: tl.constexpr
) -> tl.tensor:
    r = tl.arange(0, RANK)
    at = n[None, :] * rank + r[:, None]
    return tl.load(weight + at, mask=(n[None, :] < num_columns) & (r[:, None] < rank), other=0.0)


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _low_rank_sum(
    base: tl.tensor,
    inner: tl.tensor,
    weight: tl.tensor,
    residual: tl.tensor,
    summed: tl.tensor,
    num_rows: tl.tensor,
    num_columns: tl.tensor,
    inner_stride: tl.tensor,
    scale: tl.tensor,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    rank: tl.constexpr,
    RANK: tl.constexpr,
    HAS_RESIDUAL: tl.constexpr,
) -> None:
    first = tl.program_id(0) * ROWS
    m = first + tl.arange(0, ROWS)
    n = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    start, at, inside = _places(first, n, num_rows, num_columns, ROWS)
    total = _block_of(base + start, at, inside)
    if HAS_RESIDUAL:
        added = _block_of(residual + start, at, inside)
    inner_block = _inner_block(inner, m, num_rows, inner_stride, rank, RANK)
    total += scale * tl.dot(inner_block, _weight_block(weight, n, num_columns, rank, RANK))
    kind = base.dtype.element_ty
    result = total.to(kind)
    if HAS_RESIDUAL:
        result = (result.to(tl.float32) + added).to(kind)
    tl.store(summed + start + at, result, mask=inside)


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _exp(x: tl.tensor) -> tl.tensor:
    # Triton's own is longer: 33 instructions a number in the gated activation where this makes it 30.
    return tl.exp2(1.4426950408889634 * x)


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _swiglu(
    gate: tl.tensor,
    up: tl.tensor,
    inner: tl.tensor,
    gate_weight: tl.tensor,
    up_weight: tl.tensor,
    mixed: tl.tensor,
    num_rows: tl.tensor,
    num_columns: tl.tensor,
    inner_stride: tl.tensor,
    scale: tl.tensor,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    STEPS: tl.constexpr,
    rank: tl.constexpr,
    RANK: tl.constexpr,
) -> None:
    first = tl.program_id(0) * ROWS
    m = first + tl.arange(0, ROWS)
    of_gate = _inner_block(inner, m, num_rows, inner_stride, rank, RANK)
    of_up = _inner_block(inner + rank, m, num_rows, inner_stride, rank, RANK)
    # The loop lets blocks arrive while others are computed.
    for step in tl.range(0, STEPS, num_stages=3):
        n = (tl.program_id(1) * STEPS + step) * COLUMNS + tl.arange(0, COLUMNS)
        start, at, inside = _places(first, n, num_rows, num_columns, ROWS)
        gate_block = _weight_block(gate_weight, n, num_columns, rank, RANK)
        up_block = _weight_block(up_weight, n, num_columns, rank, RANK)
        g = _block_of(gate + start, at, inside) + scale * tl.dot(of_gate, gate_block)
        u = _block_of(up + start, at, inside) + scale * tl.dot(of_up, up_block)
        product = g * u / (1.0 + _exp(-g))
        tl.store(mixed + start + at, product.to(mixed.dtype.element_ty), mask=inside)


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _swiglu_backward(
    gate: tl.tensor,
    up: tl.tensor,
    inner: tl.tensor,
    gate_weight: tl.tensor,
    up_weight: tl.tensor,
    grad: tl.tensor,
    grad_gate: tl.tensor,
    grad_up: tl.tensor,
    num_rows: tl.tensor,
    num_columns: tl.tensor,
    inner_stride: tl.tensor,
    scale: tl.tensor,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    STEPS: tl.constexpr,
    rank: tl.constexpr,
    RANK: tl.constexpr,
) -> None:
    first = tl.program_id(0) * ROWS
    m = first + tl.arange(0, ROWS)
    of_gate = _inner_block(inner, m, num_rows, inner_stride, rank, RANK)
    of_up = _inner_block(inner + rank, m, num_rows, inner_stride, rank, RANK)
    # The loop lets blocks arrive while others are computed.
    for step in tl.range(0, STEPS, num_stages=3):
        n = (tl.program_id(1) * STEPS + step) * COLUMNS + tl.arange(0, COLUMNS)
        start, at, inside = _places(first, n, num_rows, num_columns, ROWS)
        gate_block = _weight_block(gate_weight, n, num_columns, rank, RANK)
        up_block = _weight_block(up_weight, n, num_columns, rank, RANK)
        g = _block_of(gate + start, at, inside) + scale * tl.dot(of_gate, gate_block)
        u = _block_of(up + start, at, inside) + scale * tl.dot(of_up, up_block)
        dy = _block_of(grad + start, at, inside)
        sigmoid = 1.0 / (1.0 + _exp(-g))
        kind = grad.dtype.element_ty
        tl.store(grad_up + start + at, (dy * g * sigmoid).to(kind), mask=inside)
        slope = sigmoid * (1.0 + g * (1.0 - sigmoid))
        tl.store(grad_gate + start + at, (dy * u * slope).to(kind), mask=inside)


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _rms_norm(
    x: tl.tensor,
    weight: tl.tensor,
    normed: tl.tensor,
    size: tl.tensor,
    epsilon: tl.tensor,
    SIZE: tl.constexpr,
) -> None:
    h = tl.arange(0, SIZE)
    at = tl.program_id(0).to(tl.int64) * size + h
    row = tl.load(x + at, mask=h < size, other=0.0).to(tl.float32)
    scaled = row * tl.rsqrt(tl.sum(row * row, axis=0) / size + epsilon)
    scaled *= tl.load(weight + h, mask=h < size, other=0.0).to(tl.float32)
    tl.store(normed + at, scaled.to(normed.dtype.element_ty), mask=h < size)


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _layer_norm(
    x: tl.tensor,
    weight: tl.tensor,
    bias: tl.tensor,
    normed: tl.tensor,
    size: tl.tensor,
    epsilon: tl.tensor,
    SIZE: tl.constexpr,
) -> None:
    h = tl.arange(0, SIZE)
    at = tl.program_id(0).to(tl.int64) * size + h
    row = tl.load(x + at, mask=h < size, other=0.0).to(tl.float32)
    centred = tl.where(h < size, row - tl.sum(row, axis=0) / size, 0.0)
    scaled = centred * tl.rsqrt(tl.sum(centred * centred, axis=0) / size + epsilon)
    scaled *= tl.load(weight + h, mask=h < size, other=0.0).to(tl.float32)
    scaled += tl.load(bias + h, mask=h < size, other=0.0).to(tl.float32)
    tl.store(normed + at, scaled.to(normed.dtype.element_ty), mask=h < size)
