"""Heads on top of the policy's hidden states."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

HIDDEN_SIZES = (512, 128)


class ValueHead(nn.Module):
    """State value from the "a0" feature: H -> 512 -> 128 -> outputs, GELU between, no bias at the end.

    The fresh head answers zero everywhere, so that training starts from the critic that knows nothing.
    """

    def __init__(self, hidden_size: int, *, num_outputs: int = 1) -> None:
        super().__init__()
        self.head_l1 = nn.Linear(hidden_size, HIDDEN_SIZES[0])
        self.head_l2 = nn.Linear(HIDDEN_SIZES[0], HIDDEN_SIZES[1])
        self.head_l3 = nn.Linear(HIDDEN_SIZES[1], num_outputs, bias=False)
        for layer in (self.head_l1, self.head_l2):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
        nn.init.zeros_(self.head_l3.weight)

    def forward(self, feature_BH: Tensor) -> Tensor:
        """(B, H) -> (B, num_outputs)."""
        x = functional.gelu(self.head_l1(feature_BH))
        x = functional.gelu(self.head_l2(x))
        values: Tensor = self.head_l3(x)
        return values
