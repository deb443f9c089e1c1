"""The kernel of products with few outputs. Needs `triton`, which PyTorch's builds for GPUs bring along.

Shapes: M rows, I inputs, O outputs.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

ROWS, OUTPUTS, INPUTS = 64, 32, 128  # of one step of one program


def multiply(x_MI: Tensor, weight_OI: Tensor) -> Tensor:
    """`x @ weight.T` in the format of `x`, summed in float32; the same for a row whatever the other rows are."""
    x_MI, weight_OI = _in_rows(x_MI), _in_rows(weight_OI)
    (num_rows, num_inputs), num_outputs = x_MI.shape, len(weight_OI)
    product_MO = x_MI.new_empty(num_rows, num_outputs)
    grid = triton.cdiv(num_rows, ROWS), triton.cdiv(num_outputs, OUTPUTS)
    with torch.cuda.device(x_MI.device):
        _multiply[grid](
            x_MI, weight_OI, product_MO, num_rows, num_inputs, num_outputs, x_MI.stride(0), weight_OI.stride(0),
            ROWS, OUTPUTS, INPUTS, num_warps=4, num_stages=4,
        )  # fmt: skip
    return product_MO


def _in_rows(matrix: Tensor) -> Tensor:
    return matrix if matrix.stride(1) == 1 else matrix.contiguous()


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _multiply(
    x: tl.tensor,
    weight: tl.tensor,
    product: tl.tensor,
    num_rows: tl.tensor,
    num_inputs: tl.tensor,
    num_outputs: tl.tensor,
    x_stride: tl.tensor,
    weight_stride: tl.tensor,
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
