"""Runs every kernel in Triton's interpreter on the CPU and compares it with the operator's plain arithmetic.

A program of its own: whether kernels are interpreted is decided when they are imported (TRITON_INTERPRET=1).
"""

import sys

import torch
from torch.testing import assert_close

from transformers_openvla_oft.model import kernels, operators

HALF = torch.float16  # the interpreter cannot multiply bfloat16


def random(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))).to(HALF)


def compare(kernel, operator, given, *, changed=None):
    exact = [tensor.double() if isinstance(tensor, torch.Tensor) else tensor for tensor in given]
    expected = operator(*exact)
    actual = kernel(*given)
    for ours, theirs in zip(
        actual if isinstance(actual, tuple) else (actual,),
        expected if isinstance(expected, tuple) else (expected,),
        strict=True,
    ):
        assert ours.dtype == HALF
        assert_close(ours.double(), theirs, rtol=5e-3, atol=5e-2)
    sys.stdout.write(f"{kernel.__name__}\n")


# Sizes that fill no block.
for rows, inputs, outputs in ((70, 300, 96), (3, 40, 5), (65, 130, 160)):
    compare(kernels.narrow_product, operators.narrow_product, (random(rows, inputs), random(outputs, inputs)))
inner = random(35, 48)
for residual in (None, random(35, 130)):
    summed = random(35, 130), inner[:, 16:36], random(130, 20), residual, 0.5
    compare(kernels.low_rank_sum, operators.low_rank_sum, summed)
mixed = random(35, 130), random(35, 130), random(35, 40), random(130, 20), random(130, 20), 0.5
compare(kernels.swiglu, operators.swiglu, mixed)
compare(kernels.swiglu_backward, operators.swiglu_backward, (random(35, 130) / 8, *mixed))
compare(kernels.rms_norm, operators.rms_norm, (random(3, 5, 72), random(72), 1e-6))
compare(kernels.layer_norm, operators.layer_norm, (random(3, 5, 72), random(72), random(72), 1e-6))
