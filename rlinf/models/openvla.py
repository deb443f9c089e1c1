"""OpenVLA as a ``Policy``: one action at a time, its tokens decoded one after another (arXiv:2406.09246)."""

from hashlib import blake2b

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlinf.config.schema import ModelConfig
from rlinf.models.decoding import sampled_chunk
from rlinf.models.policy import PolicyInputs, PolicyOutput, PolicySource
from rlinf.models.vla import VLAPolicy, load_base, single_value
from transformers_openvla_oft import ActionOutput

NUM_ACTIONS = 1


class OpenVLAPolicy(VLAPolicy):
    """A token's logits depend on the tokens before it: sampled ones when acting, given ones when scored, which is
    teacher forcing."""

    @torch.no_grad()
    def act(self, inputs: PolicyInputs, *, temperature: float, uniforms_BCA: NDArray[np.float64]) -> PolicyOutput:
        """Sample an action token by token."""
        batch = self.batch(inputs)
        output: ActionOutput = self.module(
            **vars(batch),
            uniforms_BT=uniforms_BCA.reshape(len(inputs), -1),
            temperature=temperature,
            check_finite=False,  # `sampled_chunk` does
        )
        assert output.bins_BT is not None
        return sampled_chunk(
            output.logits_BTV,
            output.bins_BT,
            self.actions,
            temperature=temperature,
            origin=self.origin,
            values_B=single_value(output),
        )

    def base_identity(self, language: str, bins_FT: Tensor) -> dict[str, str]:
        """The actions too: logits follow them."""
        digest = blake2b(bins_FT.to(torch.int64).cpu().numpy().tobytes(), digest_size=8).hexdigest()
        actions = f"{NUM_ACTIONS} at a time, token by token; those given before each token {digest}"
        return {**super().base_identity(language, bins_FT), "actions": actions}


def load_openvla(config: ModelConfig, source: PolicySource, base_dtype: torch.dtype) -> OpenVLAPolicy:
    """Load checkpoint and adapter; see ``load_policy``. Published checkpoints do not state how many actions they
    decode."""
    return OpenVLAPolicy(load_base(config, source, base_dtype, num_actions_chunk=NUM_ACTIONS), config, source)
