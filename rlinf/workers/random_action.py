"""The random-action baseline: what a suite gives away to a policy that observes nothing. Nothing is learnt.

``rollout.worker=random_action`` in an evaluation selects it; the ledger lists it as method ``random_action``.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rlinf.config.schema import Config
from rlinf.data import Observation
from rlinf.models import Policy, PolicyEval, PolicyInputs, PolicyOutput, PolicySource
from rlinf.models.decoding import evaluate_chunk, sample_chunk
from rlinf.workers.rollout import RolloutWorker
from transformers_openvla_oft import ActionTokenMap

NUM_BINS = 256
ACTION_DIM = 7
THUMBNAIL = 32  # images are only carried along


class RandomActionPolicy:
    """Every bin of every action has the same probability: motion uniform in [-1, 1], the gripper open half the time."""

    def __init__(self, *, num_actions_chunk: int) -> None:
        self.module: nn.Module = nn.Identity()
        self.value_head: nn.Module | None = None
        self.actions = ActionTokenMap(
            action_token_begin=0,
            num_bins=NUM_BINS,
            num_actions_chunk=num_actions_chunk,
            low_A=(-1.0,) * 6 + (0.0,),
            high_A=(1.0,) * ACTION_DIM,
            mask_A=(True,) * ACTION_DIM,
        )
        self.chunk_shape = (num_actions_chunk, ACTION_DIM)

    def prepare(self, observation: Observation) -> PolicyInputs:
        """Nothing is observed; small images stand for the observation."""
        images = torch.from_numpy(observation.images_BNHWC)
        return PolicyInputs(images[:, :, :THUMBNAIL, :THUMBNAIL], observation.languages)

    def act(self, inputs: PolicyInputs, *, temperature: float, uniforms_BCA: NDArray[np.float64]) -> PolicyOutput:
        """Uniform bins, whatever the temperature."""
        return sample_chunk(
            self._logits(len(inputs)),
            self.actions,
            temperature=1.0,
            uniforms_BCA=uniforms_BCA,
            origin="no checkpoint: actions are random",
        )

    def evaluate_actions(self, inputs: PolicyInputs, bins_BCA: Tensor, *, temperature: float) -> PolicyEval:
        """The same for all bins."""
        return evaluate_chunk(self._logits(len(inputs)), bins_BCA, temperature=1.0)

    def units(self) -> Sequence[nn.Module]:
        """None."""
        return ()

    def trainable_modules(self) -> dict[str, list[nn.Parameter]]:
        """None."""
        return {}

    def to(self, device: torch.device) -> None:
        """Stays where it is: there is nothing to move."""

    def save(self, folder: Path, tensors: Mapping[str, NDArray[np.float32]]) -> None:
        """There is nothing to write."""

    def _logits(self, count: int) -> Tensor:
        chunk, dims = self.chunk_shape
        return torch.zeros(count, chunk * dims, NUM_BINS)


class RandomActionRolloutWorker(RolloutWorker):
    """A rollout worker without a model."""

    def load(self, config: Config, source: PolicySource) -> Policy:
        """Read no checkpoint."""
        return RandomActionPolicy(num_actions_chunk=config.actor.model.num_action_chunks)
