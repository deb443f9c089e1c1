"""Which implementation of attention the language model runs; vision towers always use PyTorch's."""

from __future__ import annotations

import torch
from transformers.utils.import_utils import is_flash_attn_2_available

FLASH = "flash_attention_2"
ATTENTION_ROUTES = ("sdpa", FLASH, "eager")
HALF = (torch.float16, torch.bfloat16)


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
