"""The GPU's kernels on a machine without a GPU: Triton compiles them for one, and interprets them on the CPU.

Triton is no requirement of this project; `tests/run.sh` installs it. What the kernels do on a GPU: `tests/gpu`.
"""

import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

triton = pytest.importorskip("triton")
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402
from triton.runtime.jit import JITFunction  # noqa: E402

from transformers_openvla_oft.model import kernels  # noqa: E402

GPUS = {"A100": (80, 163), "H100 and H200": (90, 227)}  # compute capability; KiB of shared memory of a program
TYPES = {torch.bfloat16: "*bf16", torch.float16: "*fp16"}
OPTIONS = ("num_warps", "num_stages")


def given(*shape, dtype):
    return torch.empty(shape, dtype=dtype)


def calls(dtype):
    """Every function that launches a kernel, with arguments at the size of the 7B and at odd sizes."""

    def tensors(*shapes):
        return [given(*shape, dtype=dtype) for shape in shapes]

    for rows, inputs, outputs in ((5520, 4096, 32), (5520, 4096, 96), (1824, 4096, 256), (70, 301, 5)):
        yield kernels.narrow_product, tensors((rows, inputs), (outputs, inputs))
    for rows, columns, rank in ((5520, 11008, 32), (70, 301, 8)):
        base, inner, weight = tensors((rows, columns), (rows, 3 * rank), (columns, rank))
        yield kernels.low_rank_sum, [base, inner[:, rank : 2 * rank], weight, None, 1.0]
        yield kernels.low_rank_sum, [base, inner[:, :rank], weight, base, 0.5]
        gated = [base, base, *tensors((rows, 2 * rank)), weight, weight, 1.0]
        yield kernels.swiglu, gated
        yield kernels.swiglu_backward, [base, *gated]
    for size in (4096, 1152, 33):
        yield kernels.rms_norm, [*tensors((2, 5, size), (size,)), 1e-6]
        yield kernels.layer_norm, [*tensors((2, 5, size), (size,), (size,)), 1e-6]


@pytest.fixture
def launches(monkeypatch):
    """Kernels with the arguments that they are launched with; nothing runs."""
    found = []

    class Recorder:
        def __init__(self, kernel):
            self.kernel = kernel

        def __getitem__(self, grid):
            assert all(count > 0 for count in grid)
            return lambda *arguments, **options: found.append((self.kernel, arguments, options))

    monkeypatch.setattr(kernels, "_launchable", Recorder)
    return found


def compiled(kernel, arguments, options, capability):
    """The kernel for a GPU that need not be there; as when it is launched, numbers that 16 divides are known to be."""
    names = [parameter.name for parameter in kernel.params]
    assert len(names) == len(arguments)
    signature, constants, attributes = {}, {}, {}
    for index, (parameter, value) in enumerate(zip(kernel.params, arguments, strict=True)):
        if parameter.is_constexpr:
            signature[parameter.name], constants[parameter.name] = "constexpr", value
        elif isinstance(value, torch.Tensor):
            signature[parameter.name] = TYPES[value.dtype]
            attributes[index,] = [["tt.divisibility", 16]]
        else:
            signature[parameter.name] = "fp32" if isinstance(value, float) else "i32"
            if isinstance(value, int) and value % 16 == 0:
                attributes[index,] = [["tt.divisibility", 16]]
    assert set(options) <= set(OPTIONS)
    source = ASTSource(kernel, signature, constexprs=constants, attrs=attributes)
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)


@pytest.mark.parametrize("gpu", GPUS)
@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_kernels_compile(launches, dtype, gpu):
    capability, shared = GPUS[gpu]
    for function, arguments in calls(dtype):
        function(*arguments)
    for kernel, arguments, options in launches:
        made = compiled(kernel, arguments, options, capability)
        assert made.asm["cubin"]
        assert made.metadata.shared <= shared * 1024, kernel.__name__
    launched = {kernel.__name__ for kernel, _, _ in launches}
    # Those that other kernels call are compiled with them.
    called = {"_exp", "_places", "_block_of", "_inner_block", "_weight_block"}
    assert launched | called == {name for name, value in vars(kernels).items() if isinstance(value, JITFunction)}


def test_every_launching_function_is_called_here():
    public = {
        function
        for name, function in inspect.getmembers(kernels, inspect.isfunction)
        if function.__module__ == kernels.__name__ and not name.startswith("_")
    }
    assert {function for function, _ in calls(torch.bfloat16)} == public


def test_kernels_compute_what_the_operators_do():
    root = Path(__file__).resolve().parents[3]
    program = Path(__file__).with_name("interpreted_kernels.py")
    environment = {
        **os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": str(root / "transformers-openvla-oft"),
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, str(program)], env=environment, capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == 0, done.stderr
    assert len(set(done.stdout.split())) == 6
