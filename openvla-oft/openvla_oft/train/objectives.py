"""What a policy is trained on: action tokens (cross-entropy) or normalised actions (L1 regression).

An objective gives the loss of every target (B, T), so that batches can be cut and joined anywhere, and the numbers by
which validation judges a prediction. Shapes: T action tokens = C chunk steps x A action dimensions, V action bins.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from openvla_oft.data.batches import Batch
from openvla_oft.data.demonstration import GRIPPER
from openvla_oft.options import FinetuneOptions
from transformers_openvla_oft.model import layouts
from transformers_openvla_oft.model.action_tokens import ActionTokenMap, gripper_to_env
from transformers_openvla_oft.model.modeling import OpenVLAForActionPrediction

NEAR_BINS = 2

Measurement = tuple[str, Tensor, Tensor]
"""A name, values, and which of them count."""


class Objective(ABC):
    """A loss for every target, and what validation measures."""

    @abstractmethod
    def losses(self, prediction: Tensor, batch: Batch) -> Tensor:
        """(B, T), float32."""

    def counted(self, inside_BT: Tensor) -> Tensor:
        """Which of these losses count, given which action tokens (numbers of an action) do: the same."""
        return inside_BT

    @abstractmethod
    def measure(self, prediction: Tensor, batch: Batch) -> Iterator[Measurement]:
        """Numbers whose means over the counted targets say how good a prediction is."""


class TokenObjective(Objective):
    """Cross-entropy over action bins; ``label_sigma`` smooths labels over neighbouring bins (0: hard labels)."""

    def __init__(self, token_map: ActionTokenMap, *, label_sigma: float, device: torch.device) -> None:
        self.token_map = token_map
        table_VV = soft_label_table(token_map.num_bins, sigma=label_sigma)
        self.table_VV = None if table_VV is None else table_VV.to(device)

    def losses(self, prediction: Tensor, batch: Batch) -> Tensor:
        """Cross-entropy of every action token (B, T) with its smoothed label."""
        return token_losses(prediction, batch.targets_BT, table_VV=self.table_VV)

    def measure(self, prediction: Tensor, batch: Batch) -> Iterator[Measurement]:
        """``cross_entropy`` (hard labels, nats), ``accuracy`` (same bin), ``near_accuracy`` (at most two bins off),
        ``entropy`` (nats), and the errors of the greedy action."""
        logits_BTV, targets_BT, mask_BT = prediction.float(), batch.targets_BT, batch.inside_BT
        greedy_BT = logits_BTV.argmax(dim=-1)
        log_probs_BTV = nn.functional.log_softmax(logits_BTV, dim=-1)
        yield "cross_entropy", token_losses(logits_BTV, targets_BT, table_VV=None), mask_BT
        yield "accuracy", greedy_BT == targets_BT, mask_BT
        yield "near_accuracy", (greedy_BT - targets_BT).abs() <= NEAR_BINS, mask_BT
        yield "entropy", -(log_probs_BTV.exp() * log_probs_BTV).sum(dim=-1), mask_BT
        yield from _action_errors(self.token_map.env_actions(greedy_BT), batch, self.token_map)


class OftTokenObjective(TokenObjective):
    """Cross-entropy over the whole vocabulary of the action tokens and of the end token after them."""

    def __init__(self, token_map: ActionTokenMap, *, end_token: int, label_sigma: float, device: torch.device) -> None:
        if label_sigma:
            raise ValueError(
                f"--label-sigma {label_sigma:g} needs --layout rl: here labels are of the whole vocabulary"
            )
        super().__init__(token_map, label_sigma=0, device=device)
        self.end_token = end_token

    def losses(self, prediction: Tensor, batch: Batch) -> Tensor:
        """Cross-entropy (B, T + 1) with hard labels, the end token last."""
        tokens_BT = self.token_map.bins_to_tokens(batch.targets_BT)
        targets_BT = torch.cat([tokens_BT, tokens_BT.new_full((len(tokens_BT), 1), self.end_token)], dim=1)
        return token_losses(prediction, targets_BT, table_VV=None)

    def counted(self, inside_BT: Tensor) -> Tensor:
        """Those of the action tokens that count, and the end token always."""
        return torch.cat([inside_BT, inside_BT.new_ones(len(inside_BT), 1)], dim=1)

    def measure(self, prediction: Tensor, batch: Batch) -> Iterator[Measurement]:
        """As for the other layout, among the action bins."""
        begin = self.token_map.action_token_begin
        return super().measure(prediction[:, :-1, begin : begin + self.token_map.num_bins], batch)


class L1Objective(Objective):
    """Mean absolute error of normalised actions (OpenVLA-OFT, arXiv:2502.19645)."""

    def __init__(self, token_map: ActionTokenMap) -> None:
        self.token_map = token_map

    def losses(self, prediction: Tensor, batch: Batch) -> Tensor:
        """Absolute errors (B, T)."""
        return (prediction.float() - batch.actions_BCA).abs().flatten(1)

    def measure(self, prediction: Tensor, batch: Batch) -> Iterator[Measurement]:
        """``l1`` (normalised units) and the errors of the action in the environment's units."""
        yield "l1", self.losses(prediction, batch), batch.inside_BT
        yield from _action_errors(env_actions(prediction, self.token_map), batch, self.token_map)


def build_objective(
    options: FinetuneOptions, model: OpenVLAForActionPrediction, token_map: ActionTokenMap, device: torch.device
) -> Objective:
    """The loss that --objective, --layout and --label-sigma choose."""
    if options.targets.objective == "l1":
        return L1Objective(token_map)
    if options.targets.layout == "oft":
        end = layouts.end_token(model)
        return OftTokenObjective(token_map, end_token=end, label_sigma=options.training.label_sigma, device=device)
    return TokenObjective(token_map, label_sigma=options.training.label_sigma, device=device)


def soft_label_table(num_bins: int, *, sigma: float) -> Tensor | None:
    """Row v is the target distribution of bin v: a Gaussian of ``sigma`` bins, cut at the ends and summing to 1.

    Bins are ordinal: hitting the neighbour is nearly right. Smoothing says so, and makes the learnt distributions
    narrow bells, from which sampling at a temperature explores nearby actions rather than any action.
    None for sigma 0 (hard labels).
    """
    if sigma == 0:
        return None
    bins_V = torch.arange(num_bins, dtype=torch.float32)
    distances_VV = bins_V[:, None] - bins_V
    return torch.softmax(-0.5 * (distances_VV / sigma) ** 2, dim=1)


def token_losses(logits_BTV: Tensor, targets_BT: Tensor, *, table_VV: Tensor | None) -> Tensor:
    """Cross-entropy of every token (B, T); minimal value is the entropy of the smoothed labels, 0 for hard ones."""
    if table_VV is None:
        return nn.functional.cross_entropy(logits_BTV.float().transpose(1, 2), targets_BT, reduction="none")
    return -(table_VV[targets_BT] * nn.functional.log_softmax(logits_BTV.float(), dim=-1)).sum(dim=-1)


def env_actions(normalised_BCA: Tensor, token_map: ActionTokenMap) -> Tensor:
    """What the environment takes for normalised actions: deltas clipped to [-1, 1], gripper -1 open / +1 close."""
    actions_BCA = token_map.unnormalize(normalised_BCA)
    motion_BCM = actions_BCA[..., :GRIPPER].clamp(-1.0, 1.0)
    return torch.cat([motion_BCM, gripper_to_env(actions_BCA[..., GRIPPER:])], dim=-1).float()


def _action_errors(actions_BCA: Tensor, batch: Batch, token_map: ActionTokenMap) -> Iterator[Measurement]:
    """``motion_l1`` and ``first_motion_l1`` (against the expert's, environment units, whole chunk and its first step)
    and ``gripper_accuracy``."""
    error_BCA = (actions_BCA - token_map.env_actions(batch.targets_BT)).abs()
    mask_BCA = batch.inside_BT.view(error_BCA.shape)
    yield "motion_l1", error_BCA[..., :GRIPPER], mask_BCA[..., :GRIPPER]
    yield "first_motion_l1", error_BCA[:, 0, :GRIPPER], mask_BCA[:, 0, :GRIPPER]
    yield "gripper_accuracy", error_BCA[..., GRIPPER] < 1, mask_BCA[..., GRIPPER]
