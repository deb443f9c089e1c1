"""OpenVLA-OFT as a ``Policy``: discrete actions, a whole chunk decoded in parallel (arXiv:2502.19645)."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from rlinf.config.schema import ModelConfig
from rlinf.models.cuda_graphs import GraphedForward
from rlinf.models.decoding import sample_chunk
from rlinf.models.policy import PolicyInputs, PolicyOutput, PolicySource
from rlinf.models.vla import VLAPolicy, load_base, single_value
from transformers_openvla_oft import ActionOutput, OpenVLAForActionPrediction, PolicyBatch


class OpenVLAOFTPolicy(VLAPolicy):
    """Every token of a chunk is decoded by itself, so logits do not depend on the bins that are scored."""

    def __init__(self, model: OpenVLAForActionPrediction, config: ModelConfig, source: PolicySource) -> None:
        super().__init__(model, config, source)
        self._cuda_graphs = source.cuda_graphs
        self._decode: Callable[[PolicyBatch], ActionOutput] = self.decode

    def to(self, device: torch.device) -> None:
        """Move the policy."""
        super().to(device)
        graphed = self._cuda_graphs and device.type == "cuda"
        self._decode = GraphedForward(self.module, self.decode) if graphed else self.decode

    @torch.no_grad()
    def act(self, inputs: PolicyInputs, *, temperature: float, uniforms_BCA: NDArray[np.float64]) -> PolicyOutput:
        """Sample a chunk; see ``sample_chunk``."""
        output = self._decode(self.batch(inputs))
        return sample_chunk(
            output.logits_BTV,
            self.actions,
            temperature=temperature,
            uniforms_BCA=uniforms_BCA,
            origin=self.origin,
            values_B=single_value(output),
        )


def load_openvla_oft(config: ModelConfig, source: PolicySource, base_dtype: torch.dtype) -> OpenVLAOFTPolicy:
    """Load checkpoint and adapter; see ``load_policy``."""
    return OpenVLAOFTPolicy(load_base(config, source, base_dtype), config, source)
