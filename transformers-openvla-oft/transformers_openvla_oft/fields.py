"""Checks of values that come from a checkpoint's JSON files: what is refused is named, with what was expected.

All of them raise `ValueError`; who knows the file adds its name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import LlamaConfig
from transformers.activations import ACT2FN
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

DTYPE_FIELDS = ("dtype", "torch_dtype")
LLAMA_SIZES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
)
OBJECTS = ("id2label", "per_layer_config")  # these, or null; transformers calls their .items() without a look
ROPE_TYPES = {"default", *ROPE_INIT_FUNCTIONS}


def is_whole(value: object) -> bool:
    """An `int`; JSON's `true` is one to Python, and not meant."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: object) -> bool:
    """A finite number; Python's JSON reader also takes NaN and Infinity."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def check_whole(name: str, value: object, *, at_least: int) -> None:
    """Raises ValueError: it is not a whole number, or too small."""
    if not (isinstance(value, int) and is_whole(value) and value >= at_least):
        raise ValueError(f"{name} must be a whole number of at least {at_least}, given {value!r}")


def check_positive(name: str, value: object) -> None:
    """Raises ValueError: it is not a finite number above 0."""
    if not (isinstance(value, int | float) and is_number(value) and value > 0):
        raise ValueError(f"{name} must be a number above 0, given {value!r}")


def check_dtype(fields: Mapping[str, Any], *, of: str = "") -> None:
    """Raises ValueError: it names no floating-point type of torch. of: prefix of the names, for messages."""
    for name in DTYPE_FIELDS:
        value = fields.get(name)
        dtype = getattr(torch, value, None) if isinstance(value, str) else value
        if value is not None and not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
            raise ValueError(f"{of}{name} must be one of torch's floating-point types, as 'bfloat16', given {value!r}")


def check_objects(fields: Mapping[str, Any], *, of: str = "") -> None:
    """Raises ValueError: what transformers takes for a mapping is none. of: prefix of the names, for messages."""
    for name in OBJECTS:
        value = fields.get(name)
        if not (value is None or isinstance(value, dict)):
            raise ValueError(f"{of}{name} must be an object or null, given {value!r}")


def read_llama(fields: object) -> LlamaConfig:
    """The language model's configuration from `text_config`.

    Raises:
        ValueError: a field is of a wrong type, or of no possible model.
    """
    if not isinstance(fields, dict):
        raise ValueError(f"text_config must be an object, the configuration of a LLaMA, given {fields!r}")
    check_dtype(fields, of="text_config.")
    check_objects(fields, of="text_config.")
    try:
        llama = LlamaConfig(**{name: value for name, value in fields.items() if name != "model_type"})
    except (StrictDataclassError, KeyError, TypeError, AttributeError, ArithmeticError) as error:
        # a field's type, and what transformers looks up or computes with it
        raise ValueError(f"text_config is not the configuration of a LLaMA: {' '.join(str(error).split())}") from error
    check_llama(llama)
    return llama


def check_llama(llama: LlamaConfig) -> None:
    """Refuse what transformers stumbles over when it builds the model, or computes NaN with.

    Raises:
        ValueError: says which field is not possible.
    """
    for name in LLAMA_SIZES:
        check_whole(f"text_config.{name}", getattr(llama, name), at_least=1)
    check_positive("text_config.rms_norm_eps", llama.rms_norm_eps)
    heads, shared = llama.num_attention_heads, llama.num_key_value_heads
    if shared is None or heads % shared:
        raise ValueError(
            f"text_config.num_attention_heads={heads} must be a multiple of text_config.num_key_value_heads={shared}"
        )
    if llama.hidden_act not in ACT2FN:
        raise ValueError(f"text_config.hidden_act must be one of {sorted(ACT2FN)}, given {llama.hidden_act!r}")
    rope = dict(llama.rope_parameters or {})
    rope_type = rope.get("rope_type", "default")
    if not (isinstance(rope_type, str) and rope_type in ROPE_TYPES):
        raise ValueError(f"text_config's rope_type must be one of {sorted(ROPE_TYPES)}, given {rope_type!r}")
    check_positive("text_config's rope_theta", rope.get("rope_theta"))
    pad = llama.pad_token_id
    if pad is not None and not (is_whole(pad) and 0 <= pad < llama.vocab_size):
        raise ValueError(f"text_config.pad_token_id={pad!r} must be below text_config.vocab_size={llama.vocab_size}")
