"""The two sequences that OpenVLA-OFT policies are trained and run with.

``rl``, what reinforcement learning uses and ``OpenVLAForActionPrediction.forward`` computes, ends with the placeholders
of the action tokens. ``oft``, the OpenVLA-OFT repository's, has the end-of-sentence token after them, which every
position sees, and learns to say it; its loss is over the whole vocabulary. A policy trained in one does not do well in
the other. (That repository pads on the right and counts positions through: positions count from the first token that
is no pad here too, so with pads on the left the numbers are the same.)

Shapes: B samples, L prompt slots, T action tokens, H hidden size, W vocabulary with its padding rows.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .language import extended, hidden_states
from .modeling import OpenVLAForActionPrediction

LAYOUTS = ("rl", "oft")


def end_token(model: OpenVLAForActionPrediction) -> int:
    """Id of the end-of-sentence token."""
    token = model.config.llama.eos_token_id
    if not isinstance(token, int):
        raise ValueError(f"the oft layout needs one end-of-sentence token; the checkpoint's eos_token_id is {token}")
    return token


def oft_hidden_states(
    model: OpenVLAForActionPrediction,
    *,
    input_ids_BL: Tensor,
    attention_mask_BL: Tensor,
    pixel_values: Tensor,
    padded: bool | None = None,
    proprio_BH: Tensor | None = None,
) -> Tensor:
    """Hidden states (B, T + 1, H) from which the action tokens and the end token are read, after the final norm.

    padded: whether a prompt has pads, see the model's `forward`.
    proprio_BH: the embedding of what the robot feels, which stands after the patches.
    """
    T = model.config.num_action_tokens
    prefix_BSH, mask_BS = model.embed_prefix(input_ids_BL, attention_mask_BL, pixel_values, padded=padded)
    if proprio_BH is not None:
        first = prefix_BSH.shape[1] - input_ids_BL.shape[1] + 1  # of the prompt after BOS and patches
        proprio_B1H = proprio_BH[:, None].to(prefix_BSH.dtype)
        prefix_BSH = torch.cat([prefix_BSH[:, :first], proprio_B1H, prefix_BSH[:, first:]], dim=1)
        if mask_BS is not None:
            mask_BS = torch.cat([mask_BS[:, :first], mask_BS.new_ones(len(mask_BS), 1), mask_BS[:, first:]], dim=1)
    B, _, H = prefix_BSH.shape
    end_B1 = torch.full((B, 1), end_token(model), device=prefix_BSH.device)
    end_B1H = model.get_input_embeddings()(end_B1).to(prefix_BSH.dtype)
    embeds_BSH = torch.cat([prefix_BSH, prefix_BSH.new_zeros(B, T, H), end_B1H], dim=1)
    llama, mask_BS = model.language_model.model, extended(mask_BS, T + 1)
    return hidden_states(llama, embeds_BSH, mask_BS, causal=False, num_needed=T + 2)[:, :-1].clone()


def oft_logits(model: OpenVLAForActionPrediction, hidden_BTH: Tensor) -> Tensor:
    """Logits of the whole vocabulary (B, T + 1, W), float32."""
    head: nn.Module = model.language_model.lm_head
    logits_BTW: Tensor = head(hidden_BTH).float()
    return logits_BTW
