"""Experience replay (Rolnick et al., arXiv:1811.11682) with expert demonstrations for a memory: cross-entropy on the
expert's actions beside the policy loss."""

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from rlinf.custom.loss import expert_cross_entropy
from rlinf.custom.methods.parts.replay import DemonstrationReplay
from rlinf.models import PolicyInputs, ReplayablePolicy


class ExperienceReplay(DemonstrationReplay):
    """Keeps the policy able to do what the expert showed."""

    def loss(
        self, policy: ReplayablePolicy, inputs: PolicyInputs, bins_BT: Tensor, drawn_B: NDArray[np.int64]
    ) -> Tensor:
        """Mean negative log-probability of the expert's bins."""
        return expert_cross_entropy(policy.action_logits(inputs, bins_BT), bins_BT)
