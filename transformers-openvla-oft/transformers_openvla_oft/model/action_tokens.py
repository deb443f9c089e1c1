"""Action tokens: the last 256 tokens of the vocabulary, each one a bin of a normalised action in [-1, 1].

A *bin* here is a column of the model's logits, 0 ... 255, so `token = action_token_begin + bin`. Columns run against
the actions: the last column is the most negative one (OpenVLA, arXiv:2406.09246, section 3.2).

Actions come in three scales: *normalised* to [-1, 1] by the 1st and 99th percentile of the data set, *dataset* units
as LIBERO's OpenVLA data has them (gripper in [0, 1], 1 = open), and *env* actions (six OSC deltas in [-1, 1], gripper
-1 = open, +1 = close).

Shapes: B batch, T action tokens = C chunk steps x A action dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf

import numpy as np
import torch
from torch import Tensor

from transformers_openvla_oft.loading import CheckpointError

from .configuration import DATASET_STATISTICS_FILE, OpenVLAConfig

# Published code divides by (q99 - q01 + this), so that a constant dimension does not divide by zero.
RANGE_EPS = 1e-8
GRIPPER_OPEN_ABOVE = 0.5
DAMAGED = "Its weights or its inputs are damaged, or its training diverged: load an earlier checkpoint."


class NonFiniteLogitsError(ValueError):
    """A policy whose logits are not numbers has no action to give."""


@dataclass(frozen=True)
class ActionTokenMap:
    """Maps between tokens, bins and actions for one data set's statistics; float64 inside, on the device of the input.

    low_A, high_A: 1st and 99th percentile. mask_A: dimensions that are normalised (all but the gripper).
    """

    action_token_begin: int
    num_bins: int
    num_actions_chunk: int
    low_A: tuple[float, ...]
    high_A: tuple[float, ...]
    mask_A: tuple[bool, ...]

    def __post_init__(self) -> None:
        if not len(self.low_A) == len(self.high_A) == len(self.mask_A):
            raise ValueError(f"q01, q99 and mask differ in length: {self.low_A}, {self.high_A}, {self.mask_A}")
        # Written so that NaN is refused too.
        if not all(-inf < low <= high < inf for low, high in zip(self.low_A, self.high_A, strict=True)):
            raise ValueError(
                f"q01 and q99 must be finite numbers, q01 at most as large as q99, given {self.low_A} and {self.high_A}"
            )

    @classmethod
    def from_config(cls, config: OpenVLAConfig, unnorm_key: str) -> ActionTokenMap:
        """Statistics of `unnorm_key` in `config.norm_stats`; `<suite>` falls back to `<suite>_no_noops`.

        Raises:
            CheckpointError: there are none, or they are no bounds of actions.
        """
        statistics = config.dataset_norm_stats(unnorm_key)
        stored = f" in {config.name_or_path} ({DATASET_STATISTICS_FILE} or config.json)" if config.name_or_path else ""
        return cls.from_statistics(
            statistics,
            of=unnorm_key + stored,
            action_dim=config.action_dim,
            action_token_begin=config.action_token_begin,
            num_bins=config.n_action_bins,
            num_actions_chunk=config.num_actions_chunk,
        )

    @classmethod
    def from_statistics(
        cls,
        statistics: Mapping[str, object],
        *,
        of: str,
        action_dim: int,
        action_token_begin: int,
        num_bins: int,
        num_actions_chunk: int,
    ) -> ActionTokenMap:
        """From the `action` of one data set's statistics; without a `mask`, all dimensions are normalised.

        of: names the data set and where its statistics are, for messages.

        Raises:
            CheckpointError: a list is missing, of another length, or holds what are no bounds.
        """
        stats = statistics.get("action")
        if not (isinstance(stats, dict) and all(isinstance(stats.get(name), list) for name in ("q01", "q99"))):
            raise CheckpointError(f"the statistics of {of} need an 'action' with lists q01 and q99, found {stats}")
        low_A, high_A = (tuple(map(float, stats[name])) for name in ("q01", "q99"))
        mask = stats.get("mask", [True] * len(low_A))
        if len(low_A) != action_dim:
            raise CheckpointError(f"{of} has statistics of {len(low_A)} dimensions, config.action_dim is {action_dim}")
        try:
            return cls(action_token_begin, num_bins, num_actions_chunk, low_A, high_A, tuple(mask))
        except ValueError as error:
            raise CheckpointError(f"the statistics of {of} are no bounds of actions: {error}") from error

    @property
    def action_dim(self) -> int:
        return len(self.low_A)

    def bins_to_tokens(self, bins: Tensor) -> Tensor:
        """Logit columns -> vocabulary ids."""
        return bins + self.action_token_begin

    def tokens_to_bins(self, tokens: Tensor) -> Tensor:
        """Vocabulary ids -> logit columns; ids outside the action tokens raise."""
        bins = tokens - self.action_token_begin
        if bins.numel() and (int(bins.min()) < 0 or int(bins.max()) >= self.num_bins):
            end = self.action_token_begin + self.num_bins
            raise ValueError(
                f"action tokens lie in [{self.action_token_begin}, {end}), given {int(tokens.min())} to "
                f"{int(tokens.max())}"
            )
        return bins

    def actions_to_bins(self, actions: Tensor) -> Tensor:
        """Normalised actions (any shape, clipped to [-1, 1]) -> bins, by the rule of `np.digitize`."""
        edges = self._edges(actions.device)
        digits = torch.bucketize(actions.double().clamp(-1.0, 1.0), edges, right=True)
        return self.num_bins - digits

    def actions_to_nearest_bins(self, actions: Tensor) -> Tensor:
        """Normalised actions -> bins with the nearest centre: the rule of the published replay code.

        It differs from `actions_to_bins` only at exactly 1, which it puts in column 1 rather than 0.
        """
        return self.actions_to_bins(actions).clamp(min=1)

    def bins_to_actions(self, bins: Tensor) -> Tensor:
        """Bins -> float64 centres in (-1, 1).

        256 edges have 255 centres: columns 0 and 1 share one, and column 0 is met only by an action of exactly 1.
        """
        edges = self._edges(bins.device)
        centres = (edges[:-1] + edges[1:]) / 2
        return centres[(self.num_bins - 1 - bins).clamp(0, self.num_bins - 2)]

    def unnormalize(self, actions_BCA: Tensor) -> Tensor:
        """Normalised -> dataset units, float64; unmasked dimensions (the gripper) pass through."""
        low_A, span_A, mask_A = self._scale(actions_BCA.device)
        return torch.where(mask_A, 0.5 * (actions_BCA.double() + 1.0) * span_A + low_A, actions_BCA.double())

    def normalize(self, actions_BCA: Tensor) -> Tensor:
        """Dataset units -> [-1, 1], float64, clipped; unmasked dimensions pass through."""
        low_A, span_A, mask_A = self._scale(actions_BCA.device)
        scaled = 2.0 * (actions_BCA.double() - low_A) / span_A - 1.0
        return torch.where(mask_A, scaled.clamp(-1.0, 1.0), actions_BCA.double())

    def dataset_actions(self, bins_BT: Tensor) -> Tensor:
        """Bins -> float64 (B, C, A) in dataset units, gripper in [0, 1] where 1 is open."""
        chunks_BCA = bins_BT.view(-1, self.num_actions_chunk, self.action_dim)
        return self.unnormalize(self.bins_to_actions(chunks_BCA))

    def env_actions(self, bins_BT: Tensor) -> Tensor:
        """Bins -> float32 (B, C, A) as LIBERO takes them: deltas clipped to [-1, 1], gripper -1 open / +1 close."""
        actions_BCA = self.dataset_actions(bins_BT)
        gripper_BC1 = gripper_to_env(actions_BCA[..., -1:])
        return torch.cat([actions_BCA[..., :-1].clamp(-1.0, 1.0), gripper_BC1], dim=-1).float()

    def encode_env_actions(self, actions_BCA: Tensor, *, nearest: bool = False) -> Tensor:
        """Inverse of `env_actions` up to the width of a bin: env actions (B, C, A) -> bins (B, T), int64.

        nearest: by the rule of `actions_to_nearest_bins` instead of `actions_to_bins`.
        """
        actions_BCA = actions_BCA.double()
        gripper_BC1 = gripper_from_env(actions_BCA[..., -1:])
        normalised_BCA = self.normalize(torch.cat([actions_BCA[..., :-1], gripper_BC1], dim=-1))
        encode = self.actions_to_nearest_bins if nearest else self.actions_to_bins
        return encode(normalised_BCA).flatten(1)

    def _edges(self, device: torch.device) -> Tensor:
        # numpy's linspace, because the published encoder compares with it to the last bit.
        return torch.from_numpy(np.linspace(-1.0, 1.0, self.num_bins)).to(device, non_blocking=True)

    def _scale(self, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        low_A, high_A = (torch.tensor(ends, dtype=torch.float64) for ends in (self.low_A, self.high_A))
        scale = low_A, high_A - low_A + RANGE_EPS, torch.tensor(self.mask_A)
        low_A, span_A, mask_A = (tensor.to(device, non_blocking=True) for tensor in scale)
        return low_A, span_A, mask_A


def gripper_to_env(gripper: Tensor) -> Tensor:
    """A data set's gripper in [0, 1], 1 = open -> LIBERO's -1 = open, +1 = close, float32; any shape."""
    return torch.where(gripper > GRIPPER_OPEN_ABOVE, -1.0, 1.0)


def gripper_from_env(gripper: Tensor) -> Tensor:
    """LIBERO's gripper, -1 = open, +1 = close -> a data set's in [0, 1], 1 = open; any shape, the precision kept."""
    return ((1.0 - gripper) / 2.0).clamp(0.0, 1.0)


def sample_bins(logits_BTV: Tensor, uniforms_BT: Tensor, *, temperature: float, check_finite: bool = True) -> Tensor:
    """Bins (B, T), int64: the cumulative distribution of each token inverted at a random number in [0, 1).

    temperature: divides the logits; 0 takes the arg max, whatever the random numbers are.
    check_finite: look whether the logits are numbers, for which the CPU waits for a GPU. False for whoever takes
        `finite_rows` along with the results and looks there, and in a CUDA graph: the bins of NaN mean nothing.

    Raises:
        NonFiniteLogitsError: a logit is NaN or infinite.
    """
    if check_finite:
        require_finite(finite_rows(logits_BTV))
    if temperature == 0:
        return logits_BTV.argmax(-1)
    cumulative_BTV = torch.log_softmax(logits_BTV / temperature, dim=-1).double().exp().cumsum(-1)
    # The sum of probabilities is 1 up to rounding; scaling by it keeps the last bin within reach and in range.
    bins_BT1 = torch.searchsorted(cumulative_BTV, uniforms_BT[..., None] * cumulative_BTV[..., -1:], right=True)
    return bins_BT1[..., 0].clamp(max=logits_BTV.shape[-1] - 1)


def finite_rows(logits_BTV: Tensor) -> Tensor:
    """Which observations have logits that are all numbers: (B,), bool, on their device."""
    return torch.isfinite(logits_BTV).flatten(1).all(dim=1)


def require_finite(finite_B: Tensor, *, advice: str = DAMAGED) -> None:
    """Refuse what `finite_rows` says; reads it from its device. advice: whence it comes and what to do.

    Raises:
        NonFiniteLogitsError: unless all are true.
    """
    bad = torch.nonzero(~finite_B.cpu())[:, 0].tolist()
    if bad:
        raise NonFiniteLogitsError(
            f"the policy gives logits that are NaN or infinite for {len(bad)} of {len(finite_B)} observations (the "
            f"first is number {bad[0]}), which no action can be taken from. {advice}"
        )


def action_log_probs(logits_BTV: Tensor, bins_BT: Tensor, *, temperature: float) -> Tensor:
    """Log-probability of each chosen bin, (B, T), in float32, with the logits divided by `temperature`."""
    log_probs_BTV = torch.log_softmax(logits_BTV.float() / temperature, dim=-1)
    return log_probs_BTV.gather(-1, bins_BT[..., None]).squeeze(-1)


def action_entropy(logits_BTV: Tensor, *, temperature: float, eps: float = 1e-10) -> Tensor:
    """Entropy of each token's distribution over bins in nats, (B, T): -sum p log(p + eps), as the published code."""
    probs_BTV = torch.softmax(logits_BTV.float() / temperature, dim=-1)
    return -(probs_BTV * torch.log(probs_BTV + eps)).sum(dim=-1)
