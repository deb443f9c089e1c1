"""Experience replay (Rolnick et al., arXiv:1811.11682) with expert demonstrations for a memory: cross-entropy on the
expert's actions beside the policy loss."""

from torch import Tensor

from rlinf.custom.loss import expert_cross_entropy
from rlinf.custom.methods.parts.replay import DemonstrationReplay, replayable
from rlinf.models import Policy


class ExperienceReplay(DemonstrationReplay):
    """Keeps the policy able to do what the expert showed."""

    def loss_terms(self, policy: Policy) -> dict[str, Tensor]:
        """``coeff`` times the mean negative log-probability of the expert's bins."""
        if self.dataset is None:
            return {}
        frames = self.draw()
        bins_BT = self.dataset.targets(frames, self.device)
        logits_BTV = replayable(policy).action_logits(self.dataset.inputs(frames, self.device), bins_BT)
        return {"replay": self.config.coeff * expert_cross_entropy(logits_BTV, bins_BT)}
