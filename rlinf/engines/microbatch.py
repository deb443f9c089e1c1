"""What one forward pass of an update needs, on the learner's device."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlinf.engines.experience import Critic, Experience
from rlinf.models import PolicyInputs


@dataclass(frozen=True)
class MicroBatch:
    """Samples with what is known of them.

    weights_SC: of the policy loss; zero for samples that are there only to fill the batch.
    critic: None without a value function.
    """

    inputs: PolicyInputs
    bins_SCA: Tensor
    logprobs_SCA: Tensor
    advantages_S: Tensor
    weights_SC: Tensor
    critic: Critic | None

    @staticmethod
    def gather(
        experience: Experience, samples: NDArray[np.int64], *, counted: int, device: torch.device
    ) -> "MicroBatch":
        """The ``samples``, of which the first ``counted`` count. Does not wait for what a GPU has begun."""
        part, chosen, critic = experience.rollouts.select(samples), torch.from_numpy(samples), experience.critic
        weights_SC = experience.weights_SC[chosen]
        weights_SC[counted:] = 0
        return MicroBatch(
            inputs=PolicyInputs(
                sent(torch.from_numpy(np.asarray(part.frames_SNHWC)), device),
                tuple(part.languages[index] for index in part.language_S),
            ),
            bins_SCA=sent(torch.from_numpy(part.bins_SCA), device),
            logprobs_SCA=sent(torch.from_numpy(part.logprobs_SCA), device),
            advantages_S=sent(experience.advantages_S[chosen], device),
            weights_SC=sent(weights_SC, device),
            critic=critic and Critic(sent(critic.values_S[chosen], device), sent(critic.returns_S[chosen], device)),
        )


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """A copy on the device. From page-locked memory, since a GPU's owner has to wait for copies from any other."""
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
