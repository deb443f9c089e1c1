"""Chunk samples of rollouts, reduced to what a log-likelihood needs: ``M`` of them, shapes as in ``rlinf.data``."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlinf.data import RolloutBatch
from rlinf.models import Policy, PolicyInputs


@dataclass(frozen=True)
class ActionChunks:
    """frames_MNHWC uint8, bins_MCA int64, executed_MC bool, in CPU memory; an instruction for each sample."""

    frames_MNHWC: Tensor
    bins_MCA: Tensor
    executed_MC: Tensor
    languages: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.languages)

    @staticmethod
    def of(rollouts: RolloutBatch, positions: NDArray[np.int64]) -> "ActionChunks":
        """The samples of ``rollouts`` at ``positions``."""
        return ActionChunks(
            torch.from_numpy(rollouts.frames_SNHWC[positions]),
            torch.from_numpy(rollouts.bins_SCA[positions]),
            torch.from_numpy(rollouts.executed_SC[positions]),
            tuple(rollouts.languages[index] for index in rollouts.language_S[positions]),
        )

    @staticmethod
    def cat(parts: Sequence["ActionChunks"]) -> "ActionChunks":
        """Join samples."""
        return ActionChunks(
            torch.cat([part.frames_MNHWC for part in parts]),
            torch.cat([part.bins_MCA for part in parts]),
            torch.cat([part.executed_MC for part in parts]),
            tuple(language for part in parts for language in part.languages),
        )

    def select(self, positions: NDArray[np.int64]) -> "ActionChunks":
        """The samples at ``positions``, in that order."""
        chosen = torch.from_numpy(positions)
        languages = tuple(self.languages[position] for position in positions)
        return ActionChunks(self.frames_MNHWC[chosen], self.bins_MCA[chosen], self.executed_MC[chosen], languages)

    @property
    def num_tokens(self) -> int:
        """Tokens of the actions that were carried out."""
        return int(self.executed_MC.sum()) * self.bins_MCA.shape[2]

    def inputs(self, device: torch.device) -> PolicyInputs:
        """What the policy sees, on ``device``."""
        return PolicyInputs(self.frames_MNHWC.to(device), self.languages)

    def log_likelihood(self, policy: Policy, *, temperature: float, device: torch.device) -> Tensor:
        """Sum over all samples of the log-probabilities of the executed tokens, differentiable. One forward pass."""
        out = policy.evaluate_actions(self.inputs(device), self.bins_MCA.to(device), temperature=temperature)
        executed_MC1 = self.executed_MC.to(device)[..., None]
        return torch.where(executed_MC1, out.logprobs_BCA, torch.zeros_like(out.logprobs_BCA)).sum()

    def tensors(self) -> dict[str, Tensor]:
        """As tensors alone, for files."""
        text = torch.frombuffer(bytearray(json.dumps(self.languages).encode()), dtype=torch.uint8)
        frames, bins, executed = self.frames_MNHWC, self.bins_MCA, self.executed_MC
        return {"frames": frames, "bins": bins, "executed": executed, "languages": text}

    @staticmethod
    def from_tensors(stored: Mapping[str, Tensor]) -> "ActionChunks":
        """Back from ``tensors``."""
        languages = tuple(json.loads(bytes(stored["languages"].tolist())))
        return ActionChunks(stored["frames"], stored["bins"], stored["executed"], languages)
