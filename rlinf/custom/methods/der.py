"""Dark experience replay as the published code of this study has it: on demonstrations, the policy's logits stay near
those of the base model, in mean squared error over the raw logits of all bins, both after the expert's actions where a
policy decodes token by token.

This is not the DER of its paper (Buzzega et al., arXiv:2004.07211), which keeps a buffer of samples from earlier tasks
with the logits that the model had for them while it learnt them: here nothing that was learnt later than the base model
is remembered."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlinf.custom.loss import logits_mse
from rlinf.custom.methods.base import TaskContext
from rlinf.custom.methods.parts.replay import DemonstrationReplay
from rlinf.custom.replay.base_logits import logits_identity, read_logits, require_logits
from rlinf.custom.replay.dataset import Demonstration, DemonstrationRef, target_bins
from rlinf.models import PolicyInputs, ReplayablePolicy


class DarkExperienceReplay(DemonstrationReplay):
    """Compares with logits stored beside the demonstrations, or computes them with the adapter switched off."""

    _cached_FTV: Tensor | None = None

    def check(self, task: TaskContext) -> None:
        """Demonstrations, and stored logits where they are asked for, are there."""
        for ref in self.find(task):
            if self.config.cached_logits:
                require_logits(ref)

    def on_read(
        self, refs: Sequence[DemonstrationRef], demos: Sequence[Demonstration], policy: ReplayablePolicy
    ) -> None:
        """Read stored logits after checking that they belong to this run."""
        if self.config.cached_logits:
            parts = []
            for ref, demo in zip(refs, demos, strict=True):
                bins_FT = target_bins(demo.actions_TA, policy, nearest=self.nearest)
                parts.append(read_logits(ref, logits_identity(ref, demo, bins_FT, policy)))
            self._cached_FTV = torch.cat(parts)

    def loss(
        self, policy: ReplayablePolicy, inputs: PolicyInputs, bins_BT: Tensor, drawn_B: NDArray[np.int64]
    ) -> Tensor:
        """Mean squared distance to the base model's logits."""
        if self._cached_FTV is None:
            reference_BTV = policy.base_logits(inputs, bins_BT)
        else:
            reference_BTV = self._cached_FTV[torch.from_numpy(drawn_B)].to(bins_BT.device)
        return logits_mse(policy.action_logits(inputs, bins_BT), reference_BTV)
