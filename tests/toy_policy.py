"""A policy of two parameters whose gradients can be worked out by hand, and rollouts for it."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from rlinf.custom.methods import TaskContext
from rlinf.data import EpisodePlan, EpisodeResult, RolloutBatch
from rlinf.models import PolicyEval, PolicyInputs


class Score(nn.Module):
    """``w . x``, the logit of bin 1 where bin 0 has logit 0."""

    def __init__(self, weights: Sequence[float] = (0.0, 0.0)) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(weights))

    def forward(self, x: Tensor) -> Tensor:
        score = x @ self.w
        return torch.stack([torch.zeros_like(score), score], dim=-1)


class ToyPolicy:
    """Features of a sample come from a table; its picture is a single pixel that says which row."""

    def __init__(self, features: Tensor, module: nn.Module | None = None, *, action_dim: int = 1) -> None:
        self.module = module or Score()
        self.features = features
        self.action_dim = action_dim
        self.part_of: Callable[[str], str] = lambda name: "llm"

    def action_logits(self, inputs: PolicyInputs, bins_BT: Tensor) -> Tensor:
        """(B, T, V); features have shape (B, T, F). Tokens do not depend on each other."""
        return self.module(self.features[inputs.images_BNHWC[:, 0, 0, 0, 0].long()])

    def evaluate_actions(self, inputs: PolicyInputs, bins_BCA: Tensor, *, temperature: float) -> PolicyEval:
        log_probs = torch.log_softmax(self.action_logits(inputs, bins_BCA.flatten(1)) / temperature, dim=-1)
        chosen = log_probs.gather(-1, bins_BCA.flatten(1)[..., None])[..., 0].view(bins_BCA.shape)
        return PolicyEval(chosen, -(log_probs.exp() * log_probs).sum(-1).view(bins_BCA.shape))

    def trainable_modules(self) -> dict[str, list[nn.Parameter]]:
        modules: dict[str, list[nn.Parameter]] = {"vision": [], "llm": [], "head": []}
        for name, parameter in self.module.named_parameters():
            if parameter.requires_grad:
                modules[self.part_of(name)].append(parameter)
        return modules


def toy_inputs(rows: Sequence[int]) -> PolicyInputs:
    frames = torch.zeros(len(rows), 1, 1, 1, 3, dtype=torch.uint8)
    frames[:, 0, 0, 0, 0] = torch.tensor(rows)
    return PolicyInputs(frames, ("lift",) * len(rows))


def toy_rollouts(bins_SCA: np.ndarray, *, executed_SC: np.ndarray | None = None, won: bool = True) -> RolloutBatch:
    """One episode per sample; sample ``s`` shows row ``s`` of the features."""
    count, chunk = bins_SCA.shape[:2]
    frames = np.zeros((count, 1, 1, 1, 3), np.uint8)
    frames[:, 0, 0, 0, 0] = np.arange(count)
    return RolloutBatch(
        frames_SNHWC=frames,
        languages=("lift",),
        language_S=np.zeros(count, np.int64),
        bins_SCA=bins_SCA.astype(np.int64),
        logprobs_SCA=np.zeros(bins_SCA.shape, np.float32),
        executed_SC=np.ones((count, chunk), np.bool_) if executed_SC is None else executed_SC,
        rewards_SC=np.zeros((count, chunk), np.float32),
        episode_S=np.arange(count),
        episodes=tuple(
            EpisodeResult(EpisodePlan(e, 0, "toy", 0, 0, 0), won, won, 5.0 * won, chunk) for e in range(count)
        ),
    )


def toy_task(
    task_id: int = 0,
    *,
    learnt_before: tuple[int, ...] = (),
    previous: Path | None = None,
    temperature: float = 1.0,
    micro_batch: int = 32,
) -> TaskContext:
    return TaskContext(
        (task_id,),
        Path("unused"),
        learnt_before,
        suite="toy",
        previous=previous,
        temperature=temperature,
        micro_batch=micro_batch,
    )
