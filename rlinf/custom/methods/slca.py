"""Slow learner."""

from dataclasses import asdict, replace

from rlinf.config.schema import SLCAConfig
from rlinf.custom.methods.base import ContinualMethod, ParamGroup
from rlinf.models import Policy


class SLCA(ContinualMethod):
    """Learn slowly what pretraining has taught and fast what maps it to outputs: one learning rate per module
    (arXiv:2303.05118)."""

    def __init__(self, config: SLCAConfig) -> None:
        self.rates: dict[str, float] = asdict(config)

    def param_groups(self, policy: Policy, lr: float) -> list[ParamGroup]:
        """A module without a rate of its own learns at ``lr``."""
        return [replace(group, lr=self.rates.get(group.name, lr)) for group in super().param_groups(policy, lr)]
