"""The trained module: the policy, whole or with a low-rank adapter, and the head of continuous actions if there is one.

Shapes: B samples, T action tokens, V action bins, W vocabulary, C chunk steps, A action dimensions.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy

from openvla_oft.torch_utils import sharding
from transformers_openvla_oft.model import layouts
from transformers_openvla_oft.model.blocks import compile_blocks
from transformers_openvla_oft.model.heads import L1ActionHead, ProprioProjector
from transformers_openvla_oft.model.modeling import ActionOutput, OpenVLAForActionPrediction, fsdp_units


class Learner(nn.Module):
    """Logits (B, T, V), or normalised actions (B, C, A) where there is an action head.

    In OpenVLA-OFT's own layout the logits are (B, T + 1, W), see ``layouts``.
    """

    def __init__(
        self,
        policy: nn.Module,
        action_head: L1ActionHead | None = None,
        proprio_projector: ProprioProjector | None = None,
        *,
        layout: str = "rl",
    ) -> None:
        super().__init__()
        self.policy = policy
        self.action_head = action_head
        self.proprio_projector = proprio_projector
        self.layout = layout

    def forward(
        self,
        input_ids_BL: Tensor,
        attention_mask_BL: Tensor,
        pixel_values: Tensor,
        bins_BT: Tensor,
        proprio_BP: Tensor | None = None,
        *,
        padded: bool | None = None,
    ) -> Tensor:
        """``bins_BT``: the expert's, which an autoregressive policy goes on from; others do not look.

        ``proprio_BP``: where there is a projector of proprioception, in OpenVLA-OFT's own layout.
        ``padded``: whether a prompt has pads, see the policy's ``forward``.
        """
        prompt = {"input_ids_BL": input_ids_BL, "attention_mask_BL": attention_mask_BL, "pixel_values": pixel_values}
        if self.layout == "oft":
            model = self._model()
            proprio_BH = None if self.proprio_projector is None else self.proprio_projector(proprio_BP)
            hidden_BTH = layouts.oft_hidden_states(model, **prompt, padded=padded, proprio_BH=proprio_BH)
            if self.action_head is None:
                return layouts.oft_logits(model, hidden_BTH)
            hidden_BTH = hidden_BTH[:, :-1]
        else:
            output: ActionOutput = self.policy(**prompt, padded=padded, bins_BT=bins_BT)
            if self.action_head is None:
                return output.logits_BTV
            hidden_BTH = output.hidden_BTH
        actions_BCA: Tensor = self.action_head(hidden_BTH)
        return actions_BCA

    def _model(self) -> OpenVLAForActionPrediction:
        model = self.policy.get_base_model() if isinstance(self.policy, PeftModel) else self.policy
        assert isinstance(model, OpenVLAForActionPrediction)
        return model


def shard(learner: Learner, mesh: DeviceMesh, *, bf16: bool, use_compile: bool, shard_frozen: bool = False) -> None:
    """Cut what is trained into shards, in place. Collective.

    All weights are trained: blocks are sharded one by one, the rest as the root. An adapter: every rank keeps the
    frozen base whole, in the precision that it has, and ranks exchange the adapter alone, which is the root. Collecting
    a base in every pass, 15 GB of a 7B policy, would take longer than all else that ranks exchange.

    bf16: trained weights are collected for forward and backward in bfloat16; gradients are summed in float32.
    shard_frozen: shard the base too, block by block, for GPUs that cannot hold it.
    """
    policy = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if bf16 else torch.float32, reduce_dtype=torch.float32, output_dtype=torch.float32
    )
    if use_compile:
        compile_blocks(learner)
    # Validation changes weights between two forward passes: a root that stays gathered would not see it.
    by_unit = shard_frozen or not isinstance(learner.policy, PeftModel)
    sharding.shard(learner, fsdp_units(learner), mesh, policy=policy, by_unit=by_unit)


def accumulation(learner: nn.Module) -> AbstractContextManager[Callable[[bool], None]]:
    """For the micro-batches of one step, see ``torch_utils``.

    Where the adapter alone is sharded, it is collected once for all of them, and gradients are summed over ranks with
    the last one: small, but hundreds of tensors. Where blocks are sharded nothing changes: whole gradients of all
    weights would not fit.
    """
    root_alone = not any(isinstance(unit, FSDPModule) for unit in fsdp_units(learner))
    return sharding.accumulation(learner, delays_gradients=root_alone, keeps_weights=root_alone)
