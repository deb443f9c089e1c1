"""What all policies over binned actions share: from logits over bins to sampled chunks and back.

T action tokens of a sample are C actions x A dimensions in order; V bins.
"""

from abc import ABC, abstractmethod
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from openvla_oft.torch_utils.tensors import trainable_parameters
from rlinf.data import Observation
from rlinf.models.policy import PolicyEval, PolicyInputs, PolicyOutput
from rlinf.models.transfer import Received, sent
from transformers_openvla_oft import ActionTokenMap, action_entropy, action_log_probs, finite_rows, sample_bins


class BinnedPolicy(ABC):
    """A ``ReplayablePolicy`` but for its network; see the protocol for shapes."""

    value_head: nn.Module | None

    def __init__(
        self, module: nn.Module, actions: ActionTokenMap, *, checkpoint: Path, adapter: Path | None = None
    ) -> None:
        """checkpoint, adapter: what it was loaded from."""
        self.module = module
        self.actions = actions
        self.chunk_shape = (actions.num_actions_chunk, actions.action_dim)
        self.checkpoint = checkpoint
        self.origin = f"the checkpoint {checkpoint}" + ("" if adapter is None else f" with the adapter {adapter}")
        self.device = torch.device("cpu")

    @abstractmethod
    def resize(self, images_BNHWC: Tensor) -> Tensor:
        """uint8 images at the policy's resolution, on their device."""

    @abstractmethod
    def score(self, inputs: PolicyInputs, bins_BT: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Logits (B, T, V) and what the value head says (B,), if there is one; one forward pass, differentiable.

        bins_BT: see ``action_logits``; None for a network that does not look at them.
        """

    @abstractmethod
    def part_of(self, name: str) -> str | None:
        """To which of ``trainable_modules`` a parameter of this name belongs; None: to the value head."""

    def prepare(self, observation: Observation) -> PolicyInputs:
        """Resize to the policy's resolution, on its device."""
        images_BNHWC = sent(torch.from_numpy(observation.images_BNHWC), self.device)
        return PolicyInputs(self.resize(images_BNHWC), observation.languages)

    @torch.no_grad()
    def act(self, inputs: PolicyInputs, *, temperature: float, uniforms_BCA: NDArray[np.float64]) -> PolicyOutput:
        """Sample a chunk, all tokens at once; see ``sample_chunk``."""
        logits_BTV, values_B = self.score(inputs, None)
        return sample_chunk(
            logits_BTV,
            self.actions,
            temperature=temperature,
            uniforms_BCA=uniforms_BCA,
            origin=self.origin,
            values_B=values_B,
        )

    def evaluate_actions(self, inputs: PolicyInputs, bins_BCA: Tensor, *, temperature: float) -> PolicyEval:
        """Log-probabilities of ``bins_BCA`` and entropies at ``temperature``, differentiable."""
        logits_BTV, values_B = self.score(inputs, bins_BCA.flatten(1))
        return evaluate_chunk(logits_BTV, bins_BCA, temperature=temperature, values_B=values_B)

    def action_logits(self, inputs: PolicyInputs, bins_BT: Tensor) -> Tensor:
        """Logits of the bins, before any temperature, differentiable."""
        return self.score(inputs, bins_BT)[0]

    def encode_actions(self, actions_BCA: Tensor, *, nearest: bool) -> Tensor:
        """Bins (B, T) of the environment's actions."""
        return self.actions.encode_env_actions(actions_BCA, nearest=nearest)

    def trainable_modules(self) -> dict[str, list[nn.Parameter]]:
        """Trainable parameters by module, but those of the value head."""
        modules: dict[str, list[nn.Parameter]] = {"vision": [], "llm": [], "head": []}
        for name, parameter in trainable_parameters(self.module).items():
            part = self.part_of(name)
            if part is not None:
                modules[part].append(parameter)
        return modules

    def to(self, device: torch.device) -> None:
        """Move the policy."""
        self.module.to(device)
        self.device = device


def sample_chunk(
    logits_BTV: Tensor,
    actions: ActionTokenMap,
    *,
    temperature: float,
    uniforms_BCA: NDArray[np.float64],
    origin: str,
    values_B: Tensor | None = None,
) -> PolicyOutput:
    """Sample a chunk, all tokens at once, by inverting the cumulative distribution; see ``sample_bins``."""
    uniforms_BT = sent(torch.from_numpy(uniforms_BCA), logits_BTV.device).flatten(1)
    bins_BT = sample_bins(logits_BTV, uniforms_BT, temperature=temperature, check_finite=False)
    return sampled_chunk(logits_BTV, bins_BT, actions, temperature=temperature, origin=origin, values_B=values_B)


def sampled_chunk(
    logits_BTV: Tensor,
    bins_BT: Tensor,
    actions: ActionTokenMap,
    *,
    temperature: float,
    origin: str,
    values_B: Tensor | None = None,
) -> PolicyOutput:
    """The output for bins that were sampled; log-probabilities are those at ``temperature`` (at 1 for the arg max).

    origin: what the policy was loaded from.
    """
    logprobs_BT = action_log_probs(logits_BTV, bins_BT, temperature=temperature or 1.0)
    shape = (len(bins_BT), -1, actions.action_dim)
    env_actions_BT = actions.env_actions(bins_BT).flatten(1)
    finite_B1 = finite_rows(logits_BTV)[:, None]
    packed = torch.cat([env_actions_BT, finite_B1.to(env_actions_BT.dtype)], dim=1)
    return PolicyOutput(bins_BT.view(shape), logprobs_BT.view(shape), Received(packed), origin, values_B)


def evaluate_chunk(
    logits_BTV: Tensor, bins_BCA: Tensor, *, temperature: float, values_B: Tensor | None = None
) -> PolicyEval:
    """Log-probabilities of ``bins_BCA`` and entropies at ``temperature``, differentiable."""
    logprobs_BT = action_log_probs(logits_BTV, bins_BCA.flatten(1), temperature=temperature)
    entropy_BT = action_entropy(logits_BTV, temperature=temperature)
    return PolicyEval(logprobs_BT.view(bins_BCA.shape), entropy_BT.view(bins_BCA.shape), values_B)
