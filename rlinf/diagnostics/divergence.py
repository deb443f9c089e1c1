"""How far a policy is from its base model where the expert went."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from rlinf.custom.methods.parts.divergence import log_probs, mean_divergence
from rlinf.custom.replay.dataset import Demonstration, DemonstrationRef, prepare_frames, target_bins
from rlinf.models import PolicyInputs, ReplayablePolicy


@torch.no_grad()
def divergence_from_base(
    policy: ReplayablePolicy,
    ref: DemonstrationRef,
    demo: Demonstration,
    *,
    temperature: float,
    max_frames: int,
    batch: int = 32,
) -> float:
    """Mean over tokens of ``KL(base || policy)`` (nats) on at most ``max_frames`` evenly spaced frames of a
    demonstration, after the expert's actions where a policy decodes token by token."""
    chosen = evenly_spaced(len(demo.images_TNHWC), max_frames)
    picked = Demonstration(demo.images_TNHWC[chosen], demo.actions_TA)
    inputs = prepare_frames(picked, ref.language, policy)
    bins_FT = target_bins(demo.actions_TA, policy, nearest=False)[torch.from_numpy(chosen)]
    total = 0.0
    for part in _parts(len(chosen), batch):
        some = PolicyInputs(inputs.images_BNHWC[part], inputs.languages[part])
        bins_BT = bins_FT[part].to(inputs.images_BNHWC.device)
        base_BTV = torch.log_softmax(policy.base_logits(some, bins_BT) / temperature, dim=-1)
        now_BTV = log_probs(policy, some, bins_BT, temperature=temperature)
        executed_BC = torch.ones(len(some), policy.chunk_shape[0], dtype=torch.bool, device=now_BTV.device)
        total += float(mean_divergence(base_BTV, now_BTV, executed_BC)) * len(some)
    return total / len(chosen)


def evenly_spaced(num_frames: int, max_frames: int) -> NDArray[np.int64]:
    """The numbers of at most ``max_frames`` frames, first and last included."""
    return np.unique(np.linspace(0, num_frames - 1, min(max_frames, num_frames)).round().astype(np.int64))


def _parts(count: int, size: int) -> Sequence[slice]:
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]
