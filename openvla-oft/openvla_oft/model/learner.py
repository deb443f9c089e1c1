"""The trained module: the policy, whole or with a low-rank adapter, and the head of continuous actions if there is one.

Shapes: B samples, T action tokens, V action bins, W vocabulary, C chunk steps, A action dimensions.
"""

from collections.abc import Mapping

from peft import PeftModel
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from transformers_openvla_oft.model import layouts
from transformers_openvla_oft.model.heads import L1ActionHead, ProprioProjector
from transformers_openvla_oft.model.modeling import ActionOutput, OpenVLAForActionPrediction


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
        if layout not in layouts.LAYOUTS:
            raise ValueError(f"layout {layout!r}: expected one of {layouts.LAYOUTS}")
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


def whole(tensor: Tensor) -> Tensor:
    """The whole tensor behind a shard, detached. Collective when ``tensor`` is sharded."""
    return tensor.full_tensor().detach() if isinstance(tensor, DTensor) else tensor.detach()


def local(tensor: Tensor) -> Tensor:
    """This rank's shard, or the tensor itself where nothing is sharded; shares its memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def trainable(module: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters that are trained, by name; names are equal with and without sharding."""
    return {name: parameter for name, parameter in module.named_parameters() if parameter.requires_grad}


def gather(tensors: Mapping[str, Tensor], *, keep: bool) -> dict[str, Tensor]:
    """Whole copies in CPU memory where ``keep``, nothing elsewhere; one tensor at a time. Collective."""
    kept = {}
    for name, tensor in tensors.items():
        value = whole(tensor)
        if keep:
            kept[name] = value.cpu().clone()
    return kept
