"""The language model's layers over embeddings, with or without a mask of pads.

`LlamaModel.forward` of transformers finds out by itself whether a mask hides anything: it looks at the values, for
which the CPU has to wait until the device has come that far, and it does something else while a CUDA graph is recorded.
Who prepared the prompts knows whether there are pads. So here nothing is looked at: a mask is used if and only if one
is given, always in the same way.

Shapes: B batch, S positions from the first one on, Q the last of them, which are computed (all without a cache), H
hidden size.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.models.llama.modeling_llama import LlamaModel
from transformers.utils.import_utils import is_flash_attn_2_available

from .decoder import Rotations
from .sizes import any_size

# Of a large product: for fewer, cuBLAS splits the sums on a GPU, so that they would round otherwise than in a large
# batch. Seen with 57 rows on an H200, not with 345.
MIN_ROWS = 384
FLASH = "flash_attention_2"
ATTENTION_ROUTES = ("sdpa", FLASH, "eager")
HALF = (torch.float16, torch.bfloat16)


def has_pads(attention_mask: Tensor, stated: bool | None) -> bool:
    """What is `stated`; where nothing is, a look at the mask, for which a GPU's owner has to wait."""
    if stated is not None:
        return stated
    return torch.compiler.is_compiling() or not bool(attention_mask.all())


def extended(mask_BS: Tensor | None, num_positions: int) -> Tensor | None:
    """The mask with as many positions more that are no pads."""
    if mask_BS is None:
        return None
    return torch.cat([mask_BS, mask_BS.new_ones(len(mask_BS), num_positions)], dim=1)


def hidden_states(
    llama: LlamaModel,
    embeds_BQH: Tensor,
    mask_BS: Tensor | None,
    *,
    causal: bool,
    num_needed: int,
    cache: DynamicCache | None = None,
) -> Tensor:
    """Hidden states (B, num_needed, H) of the last positions after the final norm.

    mask_BS: int64, 0 at pads, which nobody sees and no position counts; None where there are none.
    causal: a position sees those before it and itself, otherwise all of them.
    cache: holds keys and values of earlier positions, and takes those of the Q new ones.
    """
    Q = embeds_BQH.shape[1]
    S = Q + (0 if cache is None else cache.get_seq_length())
    if mask_BS is None:
        positions_BQ = torch.arange(S - Q, S, device=embeds_BQH.device)[None]
    else:
        positions_BQ = (mask_BS.cumsum(dim=1) - 1)[:, S - Q :]
    angles_BQD = llama.rotary_emb(embeds_BQH, position_ids=positions_BQ)
    rotations = Rotations(*(any_size(x_BQD, 0, 1) for x_BQD in angles_BQD))

    def mask_for(num_queries: int) -> Tensor | None:
        mask = _mask_of_layers(llama, embeds_BQH, mask_BS, Q=num_queries, S=S, causal=causal)
        return None if mask is None else any_size(mask, *range(mask.ndim))

    mask = mask_for(Q)
    given: dict[str, Any] = {"rotations": rotations, "causal": causal, "cache": cache}
    hidden_BQH = embeds_BQH
    *layers, last = llama.layers
    for layer in layers:
        hidden_BQH = layer(any_size(hidden_BQH, 0, 1), mask=mask, **given)
    hidden_BQH = any_size(hidden_BQH, 0, 1)
    if embeds_BQH.is_cuda and len(embeds_BQH) * num_needed < MIN_ROWS:
        hidden_BQH = last(hidden_BQH, mask=mask, **given)
    else:
        hidden_BQH = last(hidden_BQH, mask=mask_for(num_needed), num_needed=num_needed, **given)
    normed_BQH: Tensor = llama.norm(hidden_BQH[:, -num_needed:])
    return normed_BQH


def _mask_of_layers(
    llama: LlamaModel, embeds_BQH: Tensor, mask_BS: Tensor | None, *, Q: int, S: int, causal: bool
) -> Tensor | None:
    """The mask of the last Q of S positions in the form in which the layers' attention takes it, as transformers does.

    flash-attention: bool (B, S); PyTorch's: bool (B, 1, Q, S), true where a key is seen; eager: numbers of that shape
    to add. None where nothing is hidden, or where the implementation knows by itself what is (what is causal).
    """
    route = str(llama.config._attn_implementation)
    if "flash" in route:  # of any version
        return None if mask_BS is None else mask_BS.bool()
    B = len(embeds_BQH)
    if mask_BS is None and (not causal or Q == 1 or (Q == S and route == "sdpa")):
        return None
    device = embeds_BQH.device
    seen = torch.ones(B, 1, 1, S, dtype=torch.bool, device=device) if mask_BS is None else mask_BS.bool()[:, None, None]
    if causal:
        seen = seen & torch.ones(Q, S, dtype=torch.bool, device=device).tril(diagonal=S - Q)
    seen = seen.expand(B, 1, Q, S)
    if route == "sdpa":
        return seen
    zero, lowest = embeds_BQH.new_zeros(()), torch.finfo(embeds_BQH.dtype).min
    return torch.where(seen, zero, lowest)


def choose_attention(wanted: str | None, *, dtype: torch.dtype) -> str:
    """The route to load a model with (`attn_implementation`), chosen once.

    wanted: one of `ATTENTION_ROUTES`; None takes flash-attention where the package `flash-attn` is installed, there is
        a GPU, and weights have 16 bits, else PyTorch's own (`sdpa`).

    Raises:
        ValueError: there is no such route, or it cannot run here.
    """
    if wanted is None:
        return FLASH if dtype in HALF and torch.cuda.is_available() and is_flash_attn_2_available() else "sdpa"
    if wanted not in ATTENTION_ROUTES:
        raise ValueError(f"attention {wanted!r} is not known; expected one of: {', '.join(ATTENTION_ROUTES)}")
    if wanted == FLASH and not (torch.cuda.is_available() and is_flash_attn_2_available()):
        raise ValueError(f"attention {FLASH} needs a GPU and the package flash-attn; install it, or choose sdpa")
    if wanted == FLASH and dtype not in HALF:
        raise ValueError(f"attention {FLASH} computes in 16 bits only, but the model is {dtype}; choose sdpa")
    return wanted
