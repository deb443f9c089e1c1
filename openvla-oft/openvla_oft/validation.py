"""Offline numbers of a policy on held-out demonstrations: cross-entropy, accuracy and greedy action error.

They compare trainings of one kind; success comes only from running the policy in the environment.
Shapes: B samples, T = 56 action tokens, V action columns, S chunk steps, A action dimensions.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from openvla_oft.batches import DeviceData
from transformers_openvla_oft.action_tokens import ActionTokenMap

GRIPPER = 6
LogitsFunction = Callable[[Tensor], Tensor]
"""Frame indices (B,) to logits (B, T, V)."""


@torch.no_grad()
def evaluate(
    logits_of: LogitsFunction,
    data: DeviceData,
    frames: Tensor,
    *,
    token_map: ActionTokenMap,
    batch_size: int,
) -> dict[str, float]:
    """Means over the counted tokens of the given frames.

    ``cross_entropy`` (hard labels, nats), ``accuracy`` (same bin), ``near_accuracy`` (at most two bins off),
    ``entropy`` (nats), ``motion_l1`` and ``first_motion_l1`` (greedy action against the expert's, environment units,
    whole chunk and its first step), ``gripper_accuracy``.
    """
    totals: dict[str, Tensor] = {}
    counts: dict[str, Tensor] = {}

    def add(name: str, values: Tensor, mask: Tensor) -> None:
        weights = mask.to(torch.float64)
        totals[name] = (
            totals.get(name, torch.zeros((), dtype=torch.float64, device=values.device)) + (values * weights).sum()
        )
        counts[name] = counts.get(name, torch.zeros((), dtype=torch.float64, device=values.device)) + weights.sum()

    for frames_B in frames.split(batch_size):
        logits_BTV = logits_of(frames_B).float()
        targets_BT, mask_BT = data.targets_FT[frames_B].long(), data.inside_FT[frames_B]
        greedy_BT = logits_BTV.argmax(dim=-1)
        log_probs_BTV = nn.functional.log_softmax(logits_BTV, dim=-1)
        add(
            "cross_entropy",
            nn.functional.nll_loss(log_probs_BTV.transpose(1, 2), targets_BT, reduction="none"),
            mask_BT,
        )
        add("accuracy", (greedy_BT == targets_BT).double(), mask_BT)
        add("near_accuracy", ((greedy_BT - targets_BT).abs() <= 2).double(), mask_BT)
        add("entropy", -(log_probs_BTV.exp() * log_probs_BTV).sum(dim=-1), mask_BT)
        greedy_BSA = token_map.env_actions(greedy_BT)
        expert_BSA = token_map.env_actions(targets_BT)
        error_BSA = (greedy_BSA - expert_BSA).abs()
        mask_BSA = mask_BT.view(error_BSA.shape)
        add("motion_l1", error_BSA[..., :GRIPPER], mask_BSA[..., :GRIPPER])
        add("first_motion_l1", error_BSA[:, 0, :GRIPPER], mask_BSA[:, 0, :GRIPPER])
        add("gripper_accuracy", (error_BSA[..., GRIPPER] < 1).double(), mask_BSA[..., GRIPPER])
    return {name: float(totals[name] / counts[name].clamp_min(1)) for name in totals}
