"""The route through flash-attention, with the package's functions as its documentation defines them.

The package's own kernels need a GPU: `tests/gpu/test_openvla_gpu.py`. Everything around them is real here: what the
model hands to transformers, and what transformers hands to the package.
"""

import sys
from types import ModuleType

import numpy as np
import pytest
import torch
from torch.nn import functional
from torch.testing import assert_close
from transformers import modeling_flash_attention_utils as flash_utils

from tests.unit.model import prompts
from tests.unit.model.prompts import TASKS, assert_same, batch_of, outcome

MIXES = pytest.mark.parametrize("tasks", [TASKS, TASKS[1:2] * 3], ids=["padded", "unpadded"])


def attend(q_SHD, k_RHD, v_RHD, *, softmax_scale, causal):
    """One sequence. Causal: aligned to the last query and the last key."""
    S, R = len(q_SHD), len(k_RHD)
    mask_SR = torch.ones(S, R, dtype=torch.bool)
    if causal:
        mask_SR = mask_SR.tril(R - S)
    q, k, v = (x.transpose(0, 1) for x in (q_SHD, k_RHD, v_RHD))
    return functional.scaled_dot_product_attention(q, k, v, attn_mask=mask_SR, scale=softmax_scale).transpose(0, 1)


def flash_attn_func(q, k, v, dropout_p=0.0, softmax_scale=None, causal=False, window_size=(-1, -1), softcap=0.0):
    """Batches of one length: (B, S, heads, D)."""
    assert dropout_p == softcap == 0
    assert tuple(window_size) == (-1, -1)
    CALLS.append(("fixed", causal))
    rows = [attend(*row, softmax_scale=softmax_scale, causal=causal) for row in zip(q, k, v, strict=True)]
    return torch.stack(rows)


def flash_attn_varlen_func(
    q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, dropout_p=0.0, softmax_scale=None, causal=False,
    window_size=(-1, -1), softcap=0.0,
):  # fmt: skip
    """Sequences one after the other, (tokens, heads, D), that begin and end at `cu_seqlens`."""
    assert dropout_p == softcap == 0
    assert tuple(window_size) == (-1, -1)
    CALLS.append(("packed", causal))
    bounds = [list(zip(cu[:-1].tolist(), cu[1:].tolist(), strict=True)) for cu in (cu_seqlens_q, cu_seqlens_k)]
    for of_all, longest in zip(bounds, (max_seqlen_q, max_seqlen_k), strict=True):
        assert max(end - begin for begin, end in of_all) == longest
    return torch.cat(
        [
            attend(q[qa:qb], k[ka:kb], v[ka:kb], softmax_scale=softmax_scale, causal=causal)
            for (qa, qb), (ka, kb) in zip(*bounds, strict=True)
        ]
    )


def unpad_input(hidden_states, attention_mask):
    """The tokens that are no pads, where they were, where sequences begin, and the longest one's length."""
    lengths = attention_mask.sum(dim=1, dtype=torch.int32)
    indices = attention_mask.flatten().nonzero().flatten()
    begins = functional.pad(lengths.cumsum(0, dtype=torch.int32), (1, 0))
    return hidden_states.flatten(0, 1)[indices], indices, begins, int(lengths.max()), lengths


def pad_input(hidden_states, indices, batch, seqlen):
    """Tokens back in their places, zeros elsewhere."""
    whole = hidden_states.new_zeros(batch * seqlen, *hidden_states.shape[1:])
    return whole.index_put((indices,), hidden_states).unflatten(0, (batch, seqlen))


CALLS: list[tuple[str, bool]] = []


@pytest.fixture
def flash(monkeypatch):
    """The package as transformers imports it; which of its functions ran, and whether causally."""
    package, padding = ModuleType("flash_attn"), ModuleType("flash_attn.bert_padding")
    package.flash_attn_func, package.flash_attn_varlen_func = flash_attn_func, flash_attn_varlen_func
    package.flash_attn_with_kvcache = None
    padding.pad_input, padding.unpad_input = pad_input, unpad_input
    monkeypatch.setitem(sys.modules, "flash_attn", package)
    monkeypatch.setitem(sys.modules, "flash_attn.bert_padding", padding)
    monkeypatch.setattr(flash_utils, "is_flash_attn_2_available", lambda: True)
    monkeypatch.setattr(flash_utils, "_loaded_implementation", None)
    CALLS.clear()
    return CALLS


def load(folder, route):
    model = prompts.load(folder, attn_implementation="sdpa")
    # As loading with this route leaves it, but for its checks that there is a GPU and the real package.
    model.language_model.config._attn_implementation = route
    return model


def given(folder, tasks):
    return vars(batch_of(folder, tasks, prompt_multiple=1))


@MIXES
def test_logits_and_gradients_are_those_of_the_other_route(either, flash, tasks):
    models = [load(either, route) for route in ("sdpa", "flash_attention_2")]
    plain, found = (outcome(model, given(either, tasks)) for model in models)
    causal = models[1].config.num_actions_chunk == 1
    kind = "packed" if tasks == TASKS else "fixed"
    assert flash == [(kind, causal)] * len(models[1].language_model.model.layers)
    assert_same(found, plain)


@MIXES
@torch.no_grad()
def test_token_by_token_from_a_cache(autoregressive_policy, flash, tasks):
    folder = autoregressive_policy
    inputs, draws = given(folder, tasks), np.random.default_rng(0).random((3, 7))
    decoded = [
        load(folder, route)(**inputs, uniforms_BT=draws, temperature=1.0) for route in ("sdpa", "flash_attention_2")
    ]
    assert torch.equal(decoded[0].bins_BT, decoded[1].bins_BT)
    assert_close(decoded[0].logits_BTV, decoded[1].logits_BTV, rtol=0, atol=1e-5)
    assert len(flash) >= 7
