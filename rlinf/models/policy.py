"""What a policy must offer to rollouts and learners."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rlinf.data import Observation
from rlinf.models.transfer import Received
from transformers_openvla_oft import require_finite


@dataclass(frozen=True)
class PolicySource:
    """What a policy is loaded from.

    checkpoint: base checkpoint, a Hugging Face folder; tokenizer: a folder with another tokenizer than its own.
    unnorm_key: key of the action statistics.
    seed: of a fresh adapter; every rank and every rollout worker must give the same.
    critic: the policy has a value head, which is trained and saved with it (PPO).
    trains: false for one that only acts, which keeps its adapter in the precision of its frozen weights: what a learner
        computes with, and half the work.
    cuda_graphs: on a GPU, a policy that decodes a chunk in one forward pass replays it as a CUDA graph when it acts.
    """

    checkpoint: Path
    unnorm_key: str
    seed: int
    tokenizer: Path | None = None
    critic: bool = False
    trains: bool = True
    cuda_graphs: bool = False


@dataclass(frozen=True)
class Stated:
    """What a checkpoint says of itself, known before it is loaded.

    num_images: images of an observation; image_size: pixels of their sides; num_actions: decoded at a time.
    statistics: keys of its action statistics.
    """

    num_images: int
    image_size: int
    num_actions: int
    statistics: frozenset[str]


@dataclass(frozen=True)
class PolicyInputs:
    """Observations in the policy's own form, still compact.

    images_BNHWC: uint8 images at the policy's resolution; this is what a rollout keeps for the learner.
    languages: instructions.
    """

    images_BNHWC: Tensor
    languages: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.languages)


@dataclass(frozen=True)
class PolicyOutput:
    """Sampled actions, of which a GPU may still be thinking.

    bins_BCA int64, logprobs_BCA float32: on the policy's device.
    values_B: float32, what the value head says of the observations; None without one.
    arriving: the environment's actions, flat, and in a last column whether all logits were finite, (B, C A + 1).
    origin: what the policy was loaded from, for messages.
    """

    bins_BCA: Tensor
    logprobs_BCA: Tensor
    arriving: Received
    origin: str
    values_B: Tensor | None = None

    @property
    def env_actions_BCA(self) -> NDArray[np.float32]:
        """For the simulator, float32. Waits for them.

        Raises:
            NonFiniteLogitsError: a logit is NaN or infinite.
        """
        (packed,) = self.arriving.arrays()
        require_finite(
            torch.from_numpy(packed[:, -1] != 0),
            advice=f"It was loaded from {self.origin}: if it acted before, an update diverged (lower actor.optim.lr, "
            "go on from an earlier checkpoint); else its weights are damaged",
        )
        return np.ascontiguousarray(packed[:, :-1], np.float32).reshape(self.bins_BCA.shape)


@dataclass(frozen=True)
class PolicyEval:
    """Log-probabilities and entropies (nats) of given bins, float32 (B, C, A), with gradients.

    values_B: what the value head says of the observations; None without one.
    """

    logprobs_BCA: Tensor
    entropy_BCA: Tensor
    values_B: Tensor | None = None


class Policy(Protocol):
    """A policy over chunks of binned actions."""

    module: nn.Module
    """What is trained and sharded; a LoRA model when the policy has an adapter."""

    value_head: nn.Module | None
    """Part of ``module`` that estimates returns; None where ``PolicySource.critic`` is false."""

    chunk_shape: tuple[int, int]
    """Actions per chunk and action dimensions, (C, A)."""

    def prepare(self, observation: Observation) -> PolicyInputs:
        """Bring an observation to the policy's resolution."""

    def act(self, inputs: PolicyInputs, *, temperature: float, uniforms_BCA: NDArray[np.float64]) -> PolicyOutput:
        """Sample a chunk by inverting the cumulative distribution at ``uniforms_BCA``; temperature 0: arg max.

        Does not wait for a GPU.

        Random numbers are an argument so that a result depends on the episode and not on the batch it was in.
        """

    def evaluate_actions(self, inputs: PolicyInputs, bins_BCA: Tensor, *, temperature: float) -> PolicyEval:
        """Log-probabilities of ``bins_BCA`` at ``temperature``, differentiable."""

    def units(self) -> Sequence[nn.Module]:
        """Blocks to shard one by one."""

    def trainable_modules(self) -> dict[str, list[nn.Parameter]]:
        """Trainable parameters by module: ``vision``, ``llm``, ``head``. Those of the value head are left out: what is
        kept of earlier tasks is what the policy does."""

    def to(self, device: torch.device) -> None:
        """Move the policy."""

    def save(self, folder: Path, tensors: Mapping[str, NDArray[np.float32]]) -> None:
        """Write whole trainable tensors, by name, into ``folder``, so that ``actor.model.lora_path`` can name it."""


@runtime_checkable
class ReplayablePolicy(Policy, Protocol):
    """A policy that can learn from demonstrations and from the logits of the base model it adapts.

    Shapes: T tokens of a chunk (actions times dimensions), V bins.
    """

    def action_logits(self, inputs: PolicyInputs, bins_BT: Tensor) -> Tensor:
        """Logits of the bins (B, T, V), float32, before any temperature; differentiable.

        bins_BT: the actions in question. A policy that decodes token by token gives each token's logits after those
            before it (teacher forcing); one that decodes all at once does not look at them.
        """

    def base_logits(self, inputs: PolicyInputs, bins_BT: Tensor) -> Tensor:
        """The same of the base model, its adapter switched off; without gradients."""

    def encode_actions(self, actions_BCA: Tensor, *, nearest: bool) -> Tensor:
        """Bins (B, T) of the environment's actions: of the ``nearest`` centre, else as in supervised training."""

    def base_identity(self, language: str, bins_FT: Tensor) -> dict[str, str]:
        """What the base model's logits of a demonstration depend on beside its images, as texts to compare:
        ``model``, ``prompt``, ``image pipeline`` and, where the logits follow ``bins_FT``, ``actions``."""
