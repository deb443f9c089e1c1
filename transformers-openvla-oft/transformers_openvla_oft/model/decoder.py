"""A layer of the language model, as transformers' but for what serves speed.

Adapters of projections with the same input share a product (`adapted`), and the last layer computes only the positions
that somebody reads: of 345 positions of a sample, 57.

Shapes: B batch, S positions that attention sees, Q of them that are computed, H hidden size, N heads, D head size.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaModel, eager_attention_forward

from .adapted import added, gated, project


class Rotations(NamedTuple):
    """Cosines and sines of rotary position embeddings (arXiv:2104.09864), (B or 1, Q, D) each."""

    cos: Tensor
    sin: Tensor


class DecoderLayer(LlamaDecoderLayer):
    """Pre-norm transformer layer with rotary positions and a gated MLP."""

    def forward(
        self,
        hidden_BQH: Tensor,
        *,
        mask: Tensor | None,
        rotations: Rotations,
        causal: bool,
        cache: DynamicCache | None = None,
        num_needed: int | None = None,
    ) -> Tensor:
        """Hidden states (B, Q, H), or those of the last `num_needed` positions.

        mask: as the attention's implementation takes it, for the positions that are needed.
        cache: holds keys and values of earlier positions, and takes those of the new ones.
        """
        normed_BQH = self.input_layernorm(hidden_BQH)
        attention = self.self_attn
        if num_needed is None:
            q, k, v = project(normed_BQH, attention.q_proj, attention.k_proj, attention.v_proj)
        else:
            k, v = project(normed_BQH, attention.k_proj, attention.v_proj)
            hidden_BQH = hidden_BQH[:, -num_needed:]
            (q,) = project(normed_BQH[:, -num_needed:].contiguous(), attention.q_proj)
        mixed_BQH = self._attend(q, k, v, mask, rotations, causal=causal, cache=cache)
        hidden_BQH = added(hidden_BQH, mixed_BQH, attention.o_proj)
        mlp = self.mlp
        normed_BQH = self.post_attention_layernorm(hidden_BQH)
        return added(hidden_BQH, gated(normed_BQH, mlp.gate_proj, mlp.up_proj, mlp.act_fn), mlp.down_proj)

    def _attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        mask: Tensor | None,
        rotations: Rotations,
        *,
        causal: bool,
        cache: DynamicCache | None,
    ) -> Tensor:
        attention: Any = self.self_attn
        q_BNQD, k_BNSD, v_BNSD = (x.unflatten(-1, (-1, attention.head_dim)).transpose(1, 2) for x in (q, k, v))
        q_BNQD, k_BNSD = _rotated(q_BNQD, rotations), _rotated(k_BNSD, rotations)
        if cache is not None:
            k_BNSD, v_BNSD = cache.update(k_BNSD, v_BNSD, attention.layer_idx)
        function = ALL_ATTENTION_FUNCTIONS.get_interface(attention.config._attn_implementation, eager_attention_forward)
        mixed_BQND: Tensor = function(
            attention,
            q_BNQD,
            k_BNSD,
            v_BNSD,
            mask,
            dropout=attention.attention_dropout if attention.training else 0.0,
            scaling=attention.scaling,
            is_causal=causal,
        )[0]
        return mixed_BQND.flatten(2)


def use_in(llama: LlamaModel) -> None:
    """Let the layers of a model that has just been made compute like this; their parameters stay."""
    for layer in llama.layers:
        layer.__class__ = DecoderLayer


def _rotated(x_BNQD: Tensor, rotations: Rotations) -> Tensor:
    """Every position turned by its angles; of more angles than positions, the last ones count."""
    cos, sin = (angles[:, None, -x_BNQD.shape[2] :] for angles in rotations)
    first, second = x_BNQD.chunk(2, dim=-1)
    return x_BNQD * cos + torch.cat([-second, first], dim=-1) * sin
