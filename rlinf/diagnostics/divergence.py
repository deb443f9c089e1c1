"""How far a policy is from its base model where the expert went."""

from dataclasses import replace

import numpy as np
import torch

from rlinf.custom.methods.parts.chunks import ActionChunks
from rlinf.custom.methods.parts.divergence import log_probs, mean_divergence
from rlinf.custom.replay.dataset import Demonstration, DemonstrationRef, as_rollouts
from rlinf.models import ReplayablePolicy


@torch.no_grad()
def divergence_from_base(
    policy: ReplayablePolicy,
    samples: ActionChunks,
    *,
    temperature: float,
    device: torch.device,
    base: ReplayablePolicy | None = None,
    batch: int = 32,
) -> float:
    """Mean over tokens of ``KL(base || policy)`` (nats), after the expert's actions where a policy decodes token by
    token. base: None: what is beneath the policy's adapter, or what its whole weights started from."""
    total = 0.0
    for start in range(0, len(samples), batch):
        some = samples.select(np.arange(start, min(start + batch, len(samples))))
        inputs, bins_BT = some.inputs(device), some.bins_MCA.flatten(1).to(device)
        if base is None:
            base_BTV = torch.log_softmax(policy.base_logits(inputs, bins_BT) / temperature, dim=-1)
        else:
            base_BTV = log_probs(base, inputs, bins_BT, temperature=temperature)
        now_BTV = log_probs(policy, inputs, bins_BT, temperature=temperature)
        total += float(mean_divergence(base_BTV, now_BTV, some.executed_MC.to(device))) * len(some)
    return total / len(samples)


def expert_samples(
    ref: DemonstrationRef, demo: Demonstration, policy: ReplayablePolicy, *, max_frames: int
) -> ActionChunks:
    """At most ``max_frames`` evenly spaced frames of a demonstration, first and last included, with the expert's next
    actions, past the end, too."""
    rollouts = as_rollouts([ref], [demo], policy, suite="", nearest=False)
    last = rollouts.num_samples - 1
    chosen = np.unique(np.linspace(0, last, min(max_frames, last + 1)).round().astype(np.int64))
    samples = ActionChunks.of(rollouts, chosen)
    return replace(samples, executed_MC=torch.ones_like(samples.executed_MC))
