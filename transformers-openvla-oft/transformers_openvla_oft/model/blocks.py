"""What is done to a model block by block: recomputing activations in the backward pass, and compiling.

Both work with and without a LoRA adapter, and before FSDP2 shards the blocks. Compiled blocks hold their checkpointing
inside.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch._dynamo import config as dynamo_config
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
)
from transformers.modeling_layers import GradientCheckpointingLayer

from .modeling import fsdp_units

CHECKPOINTING_POLICIES = ("full", "attention", "matmuls")
# Products over fewer numbers than this are those of an adapter: cheaper to repeat than to keep.
MIN_INNER_SIZE = 129
MAX_VERSIONS = 32
_COMPILER_OPTIONS = {
    "emulate_precision_casts": True,
    # The compiler would check what it has laid out itself, in Python, before and after each kernel.
    "size_asserts": False,
    "alignment_asserts": False,
    "scalar_asserts": False,
}
_CHECKPOINTING = "_gradient_checkpointing_func"
_PRODUCTS: dict[object, int] = {  # operator -> which argument's last axis is summed over
    torch.ops.aten.mm.default: 0,
    torch.ops.aten.addmm.default: 1,
    torch.ops.openvla_oft.narrow_product.default: 0,  # made known in operators.py
}


def checkpoint_blocks(model: nn.Module, *, policy: str = "full", every: int = 1) -> int:
    """Let every `every`-th block (the first, ...) repeat its forward pass in the backward pass instead of keeping it.

    policy: what a checkpointed block keeps nevertheless: `full` nothing but its input, `attention` what attention gave,
        `matmuls` that and the results of its large matrix products, so that only cheap arithmetic is repeated.

    Returns the number of checkpointed blocks. Gradients are the same whatever is chosen. The model may be in evaluation
    mode; whoever changes its mode afterwards decides whether blocks repeat themselves.
    """
    chosen = [block for index, block in enumerate(fsdp_units(model)) if index % every == 0]
    run = partial(checkpoint, use_reentrant=False)
    if policy != "full":
        run = partial(run, context_fn=partial(create_selective_checkpoint_contexts, _DECISIONS[policy]))
    for block in chosen:
        assert isinstance(block, GradientCheckpointingLayer)
        block.gradient_checkpointing = True
        block.training = True  # transformers looks at it; not `train()`, since what is inside keeps its mode
        setattr(block, _CHECKPOINTING, run)  # a plain attribute, whatever nn.Module's types say
    return len(chosen)


def compile_blocks(model: nn.Module) -> int:
    """Compile every block with `torch.compile`, for batches and prompts of all sizes; returns their number.

    Blocks of one kind share their code.

    The first batch takes half a minute, on a machine that has compiled the same before a few seconds. Numbers are
    rounded where plain code rounds them, and norms are left as they are (see `same_rounding`), so that passes with and
    without gradients, which are compiled apart, agree in 16 bits. Without both, log-probabilities of rollouts and
    updates differed by 0.07 on average in bfloat16.
    """
    # The blocks of the towers and of the language model share one function, and each kind meets several shapes; beyond
    # the default of eight versions PyTorch would go on without compiling.
    dynamo_config.recompile_limit = max(dynamo_config.recompile_limit, MAX_VERSIONS)
    units = fsdp_units(model)
    for block in units:
        block.compile(options=_COMPILER_OPTIONS)
    return len(units)


def _keep_attention(_context: Any, operator: Any, *_args: Any, **_kwargs: Any) -> CheckpointPolicy:
    kept = "attention" in str(operator) or "_flash_attn" in str(operator)
    return CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.PREFER_RECOMPUTE


def _keep_matmuls(context: Any, operator: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
    argument = _PRODUCTS.get(operator)
    if argument is not None and args[argument].shape[-1] >= MIN_INNER_SIZE:
        return CheckpointPolicy.MUST_SAVE
    return _keep_attention(context, operator, *args, **kwargs)


_DECISIONS: dict[str, Callable[..., CheckpointPolicy]] = {"attention": _keep_attention, "matmuls": _keep_matmuls}
