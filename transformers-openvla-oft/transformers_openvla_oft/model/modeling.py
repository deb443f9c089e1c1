"""OpenVLA-OFT with discrete actions, in the layout that reinforcement learning uses, and OpenVLA with the same weights.

One forward pass of OpenVLA-OFT decodes a whole chunk of actions:

    [BOS][patches of every image][left pads][prompt ... end token][one zero embedding per action token]

Attention is bidirectional over everything that is not a pad. OpenVLA (Kim et al., arXiv:2406.09246) decodes one action,
token by token, with causal attention:

    [BOS][patches of every image][left pads][prompt ... end token][action tokens]

In both, the logits of an action token are read one position earlier, those of the first one at the prompt's end token;
the hidden state of that end token, which comes before any action, is the feature of the value function.

Shapes: B batch, L prompt slots, P patches of all images, T action tokens, V action bins, H hidden size, S sequence.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import DynamicCache, LlamaForCausalLM, PreTrainedModel
from transformers import initialization as init

from transformers_openvla_oft.loading import check_finite, reading, report, unreported, weight_files

from . import decoder, same_rounding
from .action_tokens import finite_rows, require_finite, sample_bins
from .configuration import OpenVLAConfig, with_dataset_statistics
from .heads import VALUE_HEAD_PREFIX, ValueHead, project_rows, stored_value_head
from .language import extended, has_pads, hidden_states
from .vision import (
    AttentionPoolWeights,
    LayerScale,
    PrismaticProjector,
    PrismaticVisionBackbone,
    VisionBlock,
    VisionTransformer,
)

TOKEN_INIT_STD = 0.02
HUB_OPTIONS = ("revision", "cache_dir", "token", "local_files_only", "force_download", "subfolder")


class ActionOutput(NamedTuple):
    """What one forward pass gives. A named tuple, not a dataclass: FSDP2 hooks the tensors it finds in the pytree."""

    logits_BTV: Tensor  # float32, before any temperature
    hidden_BTH: Tensor  # after the final norm, at the positions of the logits
    value_feature_BH: Tensor  # hidden state of the prompt's end token ("a0")
    values_BO: Tensor | None = None  # what the value head says, float32; None without one
    bins_BT: Tensor | None = None  # bins that the model chose itself, int64; None where it chooses none


class OpenVLAForActionPrediction(PreTrainedModel):
    """Vision towers, projector and LLaMA; parameter names are those of the published checkpoints."""

    config_class = OpenVLAConfig
    base_model_prefix = ""
    main_input_name = "pixel_values"
    supports_gradient_checkpointing = True
    _no_split_modules = ["DecoderLayer", "VisionBlock"]  # noqa: RUF012 (an instance variable in the base class)
    _supports_sdpa = True
    _supports_flash_attn = True

    config: OpenVLAConfig

    def __init__(self, config: OpenVLAConfig) -> None:
        super().__init__(config)
        self.vision_backbone = PrismaticVisionBackbone(config)
        self.projector = PrismaticProjector(
            vision_dim=self.vision_backbone.embed_dim,
            llm_dim=config.llama.hidden_size,
            fused=bool(config.use_fused_vision_backbone),
        )
        self.language_model = LlamaForCausalLM(config.llama)
        same_rounding.use_in(self.language_model)
        decoder.use_in(self.language_model.model)
        self.value_head: ValueHead | None = None  # published checkpoints have none; who needs one sets it
        self.post_init()  # type: ignore[no-untyped-call]

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        *model_args: Any,
        config: OpenVLAConfig | None = None,
        output_loading_info: bool = False,
        **kwargs: Any,
    ) -> Any:
        """As in transformers, but every weight must be there and have its shape; nothing is left at random values.

        This class, which the auto classes know, loads the autoregressive one where the configuration decodes one
        action at a time. A checkpoint of reinforcement learning that holds a value head keeps it.

        Raises:
            CheckpointError: files are missing or corrupt, names or shapes are not the model's, or a weight is NaN.
        """
        path = pretrained_model_name_or_path
        folder = Path(path) / (kwargs.get("subfolder") or "")
        with reading(folder):
            if config is None:
                own = {name: kwargs.pop(name) for name in list(kwargs) if name in OpenVLAConfig.__annotations__}
                where = {name: kwargs[name] for name in HUB_OPTIONS if name in kwargs}
                config = OpenVLAConfig.from_pretrained(path, **own, **where)
            elif kwargs.get("subfolder"):  # where AutoConfig, which read it, does not look for statistics
                config.norm_stats = with_dataset_statistics({"norm_stats": config.norm_stats}, folder)["norm_stats"]
            if (chosen := _fitting(cls, config)) is not cls:
                return chosen.from_pretrained(
                    path, *model_args, config=config, output_loading_info=output_loading_info, **kwargs
                )
            if folder.is_dir() and "state_dict" not in kwargs:
                weight_files(folder)
            # Shapes that differ are listed below, with all else that does not fit.
            kwargs |= {"config": config, "output_loading_info": True, "ignore_mismatched_sizes": True}
            with unreported():
                loaded: Any = super().from_pretrained(path, *model_args, **kwargs)
            model: OpenVLAForActionPrediction = loaded[0]
            info: dict[str, Any] = loaded[1]
            what = f"the checkpoint {folder}"
            head = {name for name in info["unexpected_keys"] if folder.is_dir() and name.startswith(VALUE_HEAD_PREFIX)}
            unexpected = set(info["unexpected_keys"]) - head
            report(what, missing=info["missing_keys"], unexpected=unexpected, mismatched=info["mismatched_keys"])
            if head:
                model.value_head = stored_value_head(folder, head, hidden_size=config.llama.hidden_size)
                model.value_head.to(loaded[0].dtype).train(model.training)
        check_finite(what, model.state_dict())
        return (model, {**info, "unexpected_keys": unexpected}) if output_loading_info else model

    @classmethod
    def _from_config(cls, config: OpenVLAConfig, **kwargs: Any) -> Any:
        """Random weights, as the auto classes' `from_config` asks for them; the class that fits, too."""
        if (chosen := _fitting(cls, config)) is not cls:
            return chosen._from_config(config, **kwargs)
        return super()._from_config(config, **kwargs)  # type: ignore[no-untyped-call]

    def get_input_embeddings(self) -> nn.Module:
        return self.language_model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.language_model.set_input_embeddings(value)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Fresh weights, for training from scratch; published weights replace them."""
        super()._init_weights(module)  # type: ignore[no-untyped-call]
        if isinstance(module, VisionTransformer):
            init.trunc_normal_(module.pos_embed, std=TOKEN_INIT_STD)
            for name in ("cls_token", "reg_token"):
                if hasattr(module, name):
                    init.trunc_normal_(getattr(module, name), std=TOKEN_INIT_STD)
        elif isinstance(module, AttentionPoolWeights):
            init.trunc_normal_(module.latent, std=TOKEN_INIT_STD)
        elif isinstance(module, LayerScale):
            init.constant_(module.scale_factor, module.init_value)

    def forward(
        self,
        *,
        input_ids_BL: Tensor,
        attention_mask_BL: Tensor,
        pixel_values: Tensor,
        padded: bool | None = None,
        bins_BT: Tensor | None = None,
    ) -> ActionOutput:
        """Decode one action chunk.

        input_ids_BL, attention_mask_BL: prompt with BOS in slot 0 and pads after it, as `PrismaticProcessor` gives.
        pixel_values: (B, N * towers * 3, image size, image size), normalised per tower.
        padded: whether a prompt has pads, as the processor's batch says; None: found out from the mask, for which the
            CPU waits for a GPU. False where there are pads gives wrong numbers; true where there are none costs time.
        bins_BT: not looked at, because no token depends on another; the autoregressive model scores them.
        """
        T = self.config.num_action_tokens
        prefix_BSH, mask_BS = self.embed_prefix(input_ids_BL, attention_mask_BL, pixel_values, padded=padded)
        B, _, H = prefix_BSH.shape
        embeds_BSH = torch.cat([prefix_BSH, prefix_BSH.new_zeros(B, T, H)], dim=1)
        llama, mask_BS = self.language_model.model, extended(mask_BS, T)
        hidden_BSH = hidden_states(llama, embeds_BSH, mask_BS, causal=False, num_needed=T + 1)
        hidden_BTH = hidden_BSH[:, :-1].clone()  # a copy: FSDP2 shall hook no view
        return self.read_out(hidden_BTH, self.action_logits(hidden_BTH))

    def embed_prefix(
        self, input_ids_BL: Tensor, attention_mask_BL: Tensor, pixel_values: Tensor, *, padded: bool | None
    ) -> tuple[Tensor, Tensor | None]:
        """BOS, patches, pads and prompt: embeddings (B, P + L, H) and their mask (B, P + L), int64; see `forward`.

        There is no mask where there are no pads.
        """
        patches_BPH = self.projector(self.vision_backbone(pixel_values))
        prompt_BLH = self.get_input_embeddings()(input_ids_BL)
        patches_BPH = patches_BPH.to(prompt_BLH.dtype)
        embeds_BSH = torch.cat([prompt_BLH[:, :1], patches_BPH, prompt_BLH[:, 1:]], dim=1)
        if not has_pads(attention_mask_BL, padded):
            return embeds_BSH, None
        mask_BL = attention_mask_BL.to(torch.long)
        mask_BP = mask_BL.new_ones(patches_BPH.shape[:2])
        return embeds_BSH, torch.cat([mask_BL[:, :1], mask_BP, mask_BL[:, 1:]], dim=1)

    def read_out(self, hidden_BTH: Tensor, logits_BTV: Tensor) -> ActionOutput:
        """The output, with values, from hidden states one position before each action token and their logits."""
        feature_BH = hidden_BTH[:, 0].clone()
        values_BO = None
        if self.value_head is not None:
            values_BO = self.value_head(feature_BH.to(self.value_head.head_l1.weight.dtype)).float()
        return ActionOutput(logits_BTV, hidden_BTH, feature_BH, values_BO)

    def action_logits(self, hidden_BTH: Tensor) -> Tensor:
        """Logits of the action bins, float32; other rows of the output layer are not computed."""
        rows = slice(self.config.action_token_begin, self.config.action_token_end)
        return project_rows(self.language_model.lm_head, hidden_BTH, rows).to(torch.float32, copy=True)


class OpenVLAForAutoregressivePrediction(OpenVLAForActionPrediction):
    """Decodes one action with a cache of keys and values, or scores given ones in a single pass."""

    def __init__(self, config: OpenVLAConfig) -> None:
        if config.num_actions_chunk != 1:
            raise ValueError(
                "autoregressive OpenVLA decodes one action at a time, given num_actions_chunk="
                f"{config.num_actions_chunk}: load it with OpenVLAConfig.from_pretrained(path, num_actions_chunk=1) "
                "where the checkpoint does not state it, or use OpenVLAForActionPrediction for OpenVLA-OFT"
            )
        super().__init__(config)

    def forward(
        self,
        *,
        input_ids_BL: Tensor,
        attention_mask_BL: Tensor,
        pixel_values: Tensor,
        padded: bool | None = None,
        bins_BT: Tensor | None = None,
        uniforms_BT: NDArray[np.float64] | None = None,
        temperature: float = 0.0,
        check_finite: bool = True,
    ) -> ActionOutput:
        """Score ``bins_BT`` (teacher forcing, differentiable) or, without them, decode.

        padded: whether a prompt has pads, see the base class.
        uniforms_BT: random numbers in [0, 1) that choose each token, see ``sample_bins``; needed unless ``temperature``
            is 0. An array, not a tensor: FSDP2 would round a tensor to its own precision.
        check_finite: whether decoding looks at the logits once, at its end, see ``sample_bins``.

        Raises:
            NonFiniteLogitsError: while decoding, a logit is NaN or infinite.
        """
        embeds_BSH, mask_BS = self.embed_prefix(input_ids_BL, attention_mask_BL, pixel_values, padded=padded)
        if bins_BT is not None:
            return self._score(embeds_BSH, mask_BS, bins_BT)
        if uniforms_BT is None:
            if temperature != 0:
                raise ValueError(f"decoding at temperature={temperature} needs uniforms_BT; 0 takes the arg max")
            uniforms_BT = np.zeros((len(embeds_BSH), self.config.num_action_tokens))
        # Compiled layers would be compiled once for each of them and each length of the cache.
        with _evaluating(self.language_model), torch.compiler.set_stance("force_eager"):
            output = self._decode(embeds_BSH, mask_BS, torch.from_numpy(uniforms_BT), temperature)
        if check_finite:
            require_finite(finite_rows(output.logits_BTV))
        return output

    def _score(self, embeds_BSH: Tensor, mask_BS: Tensor | None, bins_BT: Tensor) -> ActionOutput:
        T = self.config.num_action_tokens
        # Nothing is read at the last token, and no earlier position sees it.
        embeds_BSH = torch.cat([embeds_BSH, self._embed_bins(bins_BT[:, :-1])], dim=1)
        llama, mask_BS = self.language_model.model, extended(mask_BS, T - 1)
        hidden_BTH = hidden_states(llama, embeds_BSH, mask_BS, causal=True, num_needed=T)
        return self.read_out(hidden_BTH, self.action_logits(hidden_BTH))

    def _decode(
        self, embeds_BSH: Tensor, mask_BS: Tensor | None, uniforms_BT: Tensor, temperature: float
    ) -> ActionOutput:
        uniforms_BT = uniforms_BT.to(embeds_BSH.device, non_blocking=True)
        cache = DynamicCache(config=self.config.llama)
        hidden: list[Tensor] = []
        logits: list[Tensor] = []
        bins: list[Tensor] = []
        for step in range(self.config.num_action_tokens):
            llama = self.language_model.model
            hidden.append(hidden_states(llama, embeds_BSH, mask_BS, causal=True, num_needed=1, cache=cache))
            logits.append(self.action_logits(hidden[-1]))
            uniforms_B1 = uniforms_BT[:, step : step + 1]
            bins.append(sample_bins(logits[-1], uniforms_B1, temperature=temperature, check_finite=False))
            embeds_BSH = self._embed_bins(bins[-1])
            mask_BS = extended(mask_BS, 1)
        output = self.read_out(torch.cat(hidden, dim=1), torch.cat(logits, dim=1))
        return output._replace(bins_BT=torch.cat(bins, dim=1))

    def _embed_bins(self, bins_BT: Tensor) -> Tensor:
        embeds_BTH: Tensor = self.get_input_embeddings()(bins_BT + self.config.action_token_begin)
        return embeds_BTH


def model_class(config: OpenVLAConfig) -> type[OpenVLAForActionPrediction]:
    """The class that fits: one action per chunk is decoded token by token, several in parallel."""
    return OpenVLAForAutoregressivePrediction if config.num_actions_chunk == 1 else OpenVLAForActionPrediction


def _fitting(asked: type[OpenVLAForActionPrediction], config: OpenVLAConfig) -> type[OpenVLAForActionPrediction]:
    """The class to load where `asked` is asked for: whoever names a subclass gets that."""
    return model_class(config) if asked is OpenVLAForActionPrediction else asked


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while: in training mode, gradient checkpointing drops the cache of keys and values."""
    training = [part for part in module.modules() if part.training]
    module.train(mode=False)
    try:
        yield
    finally:
        for part in training:
            part.training = True


def fsdp_units(model: nn.Module) -> list[nn.Module]:
    """Blocks to shard one by one: LLaMA decoder layers and ViT blocks, in order, with or without LoRA around.

    The last block of each tower is left out: it never runs, and FSDP2 fails in the backward pass of a unit that it has
    never gathered. It is sharded with the root.
    """
    idle = {tower.blocks[-1] for tower in model.modules() if isinstance(tower, VisionTransformer)}
    blocks = [module for module in model.modules() if isinstance(module, decoder.DecoderLayer | VisionBlock)]
    return [block for block in blocks if block not in idle]


def lora_target_modules(model: OpenVLAForActionPrediction) -> list[str]:
    """Names of the modules that published OpenVLA-OFT adapters change.

    These are all linear layers (`lm_head` and the unused pooling head too) and the patch-embedding convolutions: 439
    modules in the 7B. A value head is trained whole. PEFT shortens the list to common suffixes when it saves one.
    """
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d) and not name.startswith(VALUE_HEAD_PREFIX)
    ]
