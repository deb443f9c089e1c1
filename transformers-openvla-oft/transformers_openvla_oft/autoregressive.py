"""OpenVLA: one action, decoded token by token (Kim et al., arXiv:2406.09246). The weights are OpenVLA-OFT's.

    [BOS][patches of every picture][left pads][prompt ... end token][action tokens]

Attention is causal. Each action token's logits are read one position earlier, those of the first one at the prompt's
end token, whose hidden state is the feature of the value function too: it comes before the action.

Shapes: B batch, L prompt slots, T action tokens (one action's dimensions), V action bins, H hidden size, S sequence.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import DynamicCache

from .action_tokens import finite_rows, require_finite, sample_bins
from .configuration import OpenVLAConfig
from .language import extended, hidden_states
from .modeling import ActionOutput, OpenVLAForActionPrediction


class OpenVLAForAutoregressivePrediction(OpenVLAForActionPrediction):
    """Decodes one action with a cache of keys and values, or scores given ones in a single pass."""

    def __init__(self, config: OpenVLAConfig) -> None:
        if config.num_actions_chunk != 1:
            raise ValueError(
                "autoregressive OpenVLA decodes one action at a time, given num_actions_chunk="
                f"{config.num_actions_chunk}: load it with OpenVLAConfig.from_pretrained(path, num_actions_chunk=1) "
                "where the checkpoint does not state it, or use OpenVLAForActionPrediction for OpenVLA-OFT"
            )
        super().__init__(config)

    def forward(
        self,
        *,
        input_ids_BL: Tensor,
        attention_mask_BL: Tensor,
        pixel_values: Tensor,
        padded: bool | None = None,
        bins_BT: Tensor | None = None,
        uniforms_BT: NDArray[np.float64] | None = None,
        temperature: float = 0.0,
        check_finite: bool = True,
    ) -> ActionOutput:
        """Score ``bins_BT`` (teacher forcing, differentiable) or, without them, decode.

        padded: whether a prompt has pads, see the base class.
        uniforms_BT: random numbers in [0, 1) that choose each token, see ``sample_bins``; needed unless ``temperature``
            is 0. An array, not a tensor: FSDP2 would round a tensor to its own precision.
        check_finite: whether decoding looks at the logits once, at its end, see ``sample_bins``.

        Raises:
            NonFiniteLogitsError: while decoding, a logit is NaN or infinite.
        """
        embeds_BSH, mask_BS = self.embed_prefix(input_ids_BL, attention_mask_BL, pixel_values, padded=padded)
        if bins_BT is not None:
            return self._score(embeds_BSH, mask_BS, bins_BT)
        if uniforms_BT is None:
            if temperature != 0:
                raise ValueError(f"decoding at temperature={temperature} needs uniforms_BT; 0 takes the arg max")
            uniforms_BT = np.zeros((len(embeds_BSH), self.config.num_action_tokens))
        # Compiled layers would be compiled once for each of them and each length of the cache.
        with _evaluating(self.language_model), torch.compiler.set_stance("force_eager"):
            output = self._decode(embeds_BSH, mask_BS, torch.from_numpy(uniforms_BT), temperature)
        if check_finite:
            require_finite(finite_rows(output.logits_BTV))
        return output

    def _score(self, embeds_BSH: Tensor, mask_BS: Tensor | None, bins_BT: Tensor) -> ActionOutput:
        T = self.config.num_action_tokens
        if bins_BT.shape != (len(embeds_BSH), T):
            raise ValueError(f"bins_BT must be ({len(embeds_BSH)}, {T}), given {tuple(bins_BT.shape)}")
        # Nothing is read at the last token, and no earlier position sees it.
        embeds_BSH = torch.cat([embeds_BSH, self._embed_bins(bins_BT[:, :-1])], dim=1)
        llama, mask_BS = self.language_model.model, extended(mask_BS, T - 1)
        hidden_BTH = hidden_states(llama, embeds_BSH, mask_BS, causal=True, num_needed=T)
        return self.read_out(hidden_BTH, self.action_logits(hidden_BTH))

    def _decode(
        self, embeds_BSH: Tensor, mask_BS: Tensor | None, uniforms_BT: Tensor, temperature: float
    ) -> ActionOutput:
        uniforms_BT = uniforms_BT.to(embeds_BSH.device, non_blocking=True)
        cache = DynamicCache(config=self.config.llama)
        hidden: list[Tensor] = []
        logits: list[Tensor] = []
        bins: list[Tensor] = []
        for step in range(self.config.num_action_tokens):
            llama = self.language_model.model
            hidden.append(hidden_states(llama, embeds_BSH, mask_BS, causal=True, num_needed=1, cache=cache))
            logits.append(self.action_logits(hidden[-1]))
            uniforms_B1 = uniforms_BT[:, step : step + 1]
            bins.append(sample_bins(logits[-1], uniforms_B1, temperature=temperature, check_finite=False))
            embeds_BSH = self._embed_bins(bins[-1])
            mask_BS = extended(mask_BS, 1)
        output = self.read_out(torch.cat(hidden, dim=1), torch.cat(logits, dim=1))
        return output._replace(bins_BT=torch.cat(bins, dim=1))

    def _embed_bins(self, bins_BT: Tensor) -> Tensor:
        embeds_BTH: Tensor = self.get_input_embeddings()(bins_BT + self.config.action_token_begin)
        return embeds_BTH


def model_class(config: OpenVLAConfig) -> type[OpenVLAForActionPrediction]:
    """The class that fits: one action per chunk is decoded token by token, several in parallel."""
    return OpenVLAForAutoregressivePrediction if config.num_actions_chunk == 1 else OpenVLAForActionPrediction


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while: in training mode, gradient checkpointing drops the cache of keys and values."""
    training = [part for part in module.modules() if part.training]
    module.train(mode=False)
    try:
        yield
    finally:
        for part in training:
            part.training = True
