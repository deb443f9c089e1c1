"""Vision transformers with timm's parameter names, and the one- or two-tower backbone of OpenVLA.

timm itself imports torchvision, which has no CPU build on PyPI; the towers need few of its options.

Shapes: B images, P patches (+ prefix tokens while inside a tower), D tower width, N images per observation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.modeling_layers import GradientCheckpointingLayer

from .adapted import added, project
from .configuration import OpenVLAConfig
from .same_rounding import LayerNorm
from .sizes import any_size

LAYER_NORM_EPS = 1e-6
CHANNELS_PER_TOWER = 3


class QuickGELU(nn.Module):
    """The sigmoid approximation of GELU that OpenAI's CLIP was trained with."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape, kept."""
        return x * torch.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, type[nn.Module]] = {"gelu": nn.GELU, "quick_gelu": QuickGELU}


@dataclass(frozen=True)
class TowerSpec:
    """Sizes of one tower. The field names are timm's, so that `timm_model_kwargs` can override them."""

    embed_dim: int
    depth: int
    num_heads: int
    mlp_ratio: float
    patch_size: int
    img_size: int
    class_token: bool
    reg_tokens: int
    init_values: float | None
    global_pool: str
    act_layer: str = "gelu"

    @property
    def num_prefix_tokens(self) -> int:
        return int(self.class_token) + self.reg_tokens

    @property
    def num_patches(self) -> int:
        return (self.img_size // self.patch_size) ** 2


TOWERS: dict[str, TowerSpec] = {
    "vit_large_patch14_reg4_dinov2.lvd142m": TowerSpec(
        embed_dim=1024,
        depth=24,
        num_heads=16,
        mlp_ratio=4.0,
        patch_size=14,
        img_size=224,
        class_token=True,
        reg_tokens=4,
        init_values=1e-5,
        global_pool="token",
    ),
    "vit_so400m_patch14_siglip_224": TowerSpec(
        embed_dim=1152,
        depth=27,
        num_heads=16,
        mlp_ratio=3.7362,
        patch_size=14,
        img_size=224,
        class_token=False,
        reg_tokens=0,
        init_values=None,
        global_pool="map",
    ),
}


def resolve_tower(timm_id: str, *, img_size: int, act_layer: str | None, overrides: Mapping[str, Any]) -> TowerSpec:
    """Sizes of the tower `timm_id` after the checkpoint's overrides.

    Raises:
        ValueError: there is no such tower, or none of such sizes.
    """
    if timm_id not in TOWERS:
        raise ValueError(f"timm_model_ids: unknown vision tower {timm_id!r}; known timm ids: {sorted(TOWERS)}")
    spec = replace(TOWERS[timm_id], **{"img_size": img_size, **overrides})
    if act_layer is not None:
        spec = replace(spec, act_layer=act_layer)
    if spec.img_size % spec.patch_size:
        raise ValueError(f"{timm_id}: img_size={spec.img_size} must be a multiple of patch_size={spec.patch_size}")
    return spec


def tower_specs(config: OpenVLAConfig) -> list[TowerSpec]:
    """The resolved towers of a configuration, in the order of their channels."""
    return [
        resolve_tower(timm_id, img_size=img_size, act_layer=act_layer, overrides=overrides)
        for timm_id, img_size, act_layer, overrides in zip(
            config.timm_model_ids or (),
            config.image_sizes or (),
            config.timm_override_act_layers or (),
            config.timm_model_kwargs or (),
            strict=True,
        )
    ]


class PatchEmbed(nn.Module):
    """Non-overlapping patches to vectors."""

    def __init__(self, spec: TowerSpec) -> None:
        super().__init__()
        self.proj = nn.Conv2d(CHANNELS_PER_TOWER, spec.embed_dim, spec.patch_size, stride=spec.patch_size)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """(B, 3, img_size, img_size) -> (B, P, D), patches row by row."""
        patches_BPD: Tensor = self.proj(images_BCHW).flatten(2).transpose(1, 2)
        return patches_BPD


class Attention(nn.Module):
    """Multi-head self-attention without mask, up to its last layer, which a block adds to its residual."""

    def __init__(self, spec: TowerSpec) -> None:
        super().__init__()
        self.num_heads = spec.num_heads
        self.qkv = nn.Linear(spec.embed_dim, 3 * spec.embed_dim)
        self.proj = nn.Linear(spec.embed_dim, spec.embed_dim)

    def forward(self, x_BPD: Tensor) -> Tensor:
        """(B, P, D) -> (B, P, D)."""
        B, P, D = x_BPD.shape
        (qkv,) = project(x_BPD, self.qkv)
        q, k, v = (x.transpose(1, 2) for x in qkv.view(B, P, 3, self.num_heads, -1).unbind(2))
        mixed = functional.scaled_dot_product_attention(q, k, v)
        return mixed.transpose(1, 2).reshape(B, P, D)


class Mlp(nn.Module):
    """Two linear layers, up to the second, which a block adds to its residual."""

    def __init__(self, spec: TowerSpec) -> None:
        super().__init__()
        hidden = int(spec.embed_dim * spec.mlp_ratio)
        self.fc1 = nn.Linear(spec.embed_dim, hidden)
        self.act = ACTIVATIONS[spec.act_layer]()
        self.fc2 = nn.Linear(hidden, spec.embed_dim)

    def forward(self, x_BPD: Tensor) -> Tensor:
        """(B, P, D) -> (B, P, inner size)."""
        (inner,) = project(x_BPD, self.fc1)
        activated: Tensor = self.act(inner)
        return activated


class LayerScale(nn.Module):
    """Per-channel scale of a residual branch; `scale_factor` is the name in published OpenVLA checkpoints."""

    def __init__(self, dim: int, init_value: float) -> None:
        super().__init__()
        self.init_value = init_value
        self.scale_factor = nn.Parameter(torch.full((dim,), init_value))

    def forward(self, x_BPD: Tensor) -> Tensor:
        """(B, P, D) -> (B, P, D)."""
        return x_BPD * self.scale_factor


class VisionBlock(GradientCheckpointingLayer):
    """Pre-norm transformer block."""

    def __init__(self, spec: TowerSpec) -> None:
        super().__init__()
        self.norm1 = LayerNorm(spec.embed_dim, eps=LAYER_NORM_EPS)
        self.attn = Attention(spec)
        self.ls1 = nn.Identity() if spec.init_values is None else LayerScale(spec.embed_dim, spec.init_values)
        self.norm2 = LayerNorm(spec.embed_dim, eps=LAYER_NORM_EPS)
        self.mlp = Mlp(spec)
        self.ls2 = nn.Identity() if spec.init_values is None else LayerScale(spec.embed_dim, spec.init_values)

    def forward(self, x_BPD: Tensor) -> Tensor:
        """(B, P, D) -> (B, P, D)."""
        x_BPD = _with_branch(x_BPD, self.attn(self.norm1(x_BPD)), self.attn.proj, self.ls1)
        return _with_branch(x_BPD, self.mlp(self.norm2(x_BPD)), self.mlp.fc2, self.ls2)


def _with_branch(x_BPD: Tensor, branch: Tensor, last: nn.Module, scale: nn.Module) -> Tensor:
    """The residual stream with `scale(last(branch))` added."""
    if isinstance(scale, nn.Identity):
        return added(x_BPD, branch, last)
    (out_BPD,) = project(branch, last)
    total_BPD: Tensor = x_BPD + scale(out_BPD)
    return total_BPD


class AttentionPoolWeights(nn.Module):
    """Weights of SigLIP's pooling head. Published checkpoints and LoRA adapters hold them; OpenVLA never runs them."""

    def __init__(self, spec: TowerSpec) -> None:
        super().__init__()
        self.latent = nn.Parameter(torch.zeros(1, 1, spec.embed_dim))
        self.q = nn.Linear(spec.embed_dim, spec.embed_dim)
        self.kv = nn.Linear(spec.embed_dim, 2 * spec.embed_dim)
        self.proj = nn.Linear(spec.embed_dim, spec.embed_dim)
        self.norm = nn.LayerNorm(spec.embed_dim, eps=LAYER_NORM_EPS)
        self.mlp = Mlp(spec)


class VisionTransformer(nn.Module):
    """One tower: patch features of the second-to-last block, without final norm and without prefix tokens.

    The last block, `norm` and `attn_pool` are kept only because the checkpoints hold them.
    """

    def __init__(self, spec: TowerSpec) -> None:
        super().__init__()
        self.spec = spec
        if spec.class_token:
            self.cls_token = nn.Parameter(torch.zeros(1, 1, spec.embed_dim))
        if spec.reg_tokens:
            self.reg_token = nn.Parameter(torch.zeros(1, spec.reg_tokens, spec.embed_dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, spec.num_patches, spec.embed_dim))
        self.patch_embed = PatchEmbed(spec)
        self.blocks = nn.ModuleList(VisionBlock(spec) for _ in range(spec.depth))
        self.norm = nn.LayerNorm(spec.embed_dim, eps=LAYER_NORM_EPS)
        if spec.global_pool == "map":
            self.attn_pool = AttentionPoolWeights(spec)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        """(B, 3, img_size, img_size), normalised -> (B, P, D)."""
        # `pos_embed` is a plain parameter even under LoRA, and has the compute dtype under FSDP2 mixed precision.
        x_BPD = self.patch_embed(images_BCHW.to(self.pos_embed.dtype)) + self.pos_embed
        prefix = []
        if self.spec.class_token:
            prefix.append(self.cls_token.expand(x_BPD.shape[0], -1, -1))
        if self.spec.reg_tokens:
            prefix.append(self.reg_token.expand(x_BPD.shape[0], -1, -1))
        # In one order in memory whether there is a prefix or not: for another one, blocks would be compiled again.
        x_BPD = torch.cat([*prefix, x_BPD], dim=1) if prefix else x_BPD.contiguous()
        for block in self.blocks[:-1]:
            x_BPD = block(any_size(x_BPD, 0))
        features_BPD: Tensor = x_BPD[:, self.spec.num_prefix_tokens :]
        return features_BPD


class PrismaticVisionBackbone(nn.Module):
    """One or two towers over one or more images, two towers joined on channels (DINOv2 first, then SigLIP)."""

    def __init__(self, config: OpenVLAConfig) -> None:
        super().__init__()
        specs = tower_specs(config)
        if len({spec.num_patches for spec in specs}) != 1:
            raise ValueError(f"all towers must give the same number of patches, given {specs}")
        self.num_images = config.num_images_in_input
        self.img_size = specs[0].img_size
        self.embed_dim = sum(spec.embed_dim for spec in specs)
        self.num_patches = specs[0].num_patches
        self.featurizer = VisionTransformer(specs[0])
        if config.use_fused_vision_backbone:
            self.fused_featurizer = VisionTransformer(specs[1])

    @property
    def towers(self) -> list[nn.Module]:
        """The towers in the order of their channels."""
        return [self.featurizer, *([self.fused_featurizer] if hasattr(self, "fused_featurizer") else [])]

    def forward(self, pixel_values: Tensor) -> Tensor:
        """(B, N * towers * 3, H, W) -> (B, N * P, sum of tower widths).

        Channels are ordered image, tower, RGB, as in the published checkpoints; patches image after image.
        """
        towers = self.towers
        expected = (self.num_images * len(towers) * CHANNELS_PER_TOWER, self.img_size, self.img_size)
        if pixel_values.ndim != 4 or pixel_values.shape[1:] != expected:
            raise ValueError(
                f"pixel_values must be (batch, {expected[0]}, {expected[1]}, {expected[2]}) for {self.num_images} "
                f"image(s) and {len(towers)} tower(s), given {tuple(pixel_values.shape)}"
            )
        B = len(pixel_values)
        images = pixel_values.view(B * self.num_images, len(towers), CHANNELS_PER_TOWER, *expected[1:])
        features = torch.cat([tower(images[:, i]) for i, tower in enumerate(towers)], dim=-1)
        return features.view(B, self.num_images * self.num_patches, self.embed_dim)


class PrismaticProjector(nn.Module):
    """Vision features to LLM embeddings: three linear layers for fused towers, two for a single one."""

    def __init__(self, *, vision_dim: int, llm_dim: int, fused: bool) -> None:
        super().__init__()
        if fused:
            self.fc1 = nn.Linear(vision_dim, 4 * vision_dim)
            self.fc2 = nn.Linear(4 * vision_dim, llm_dim)
            self.fc3 = nn.Linear(llm_dim, llm_dim)
        else:
            self.fc1 = nn.Linear(vision_dim, llm_dim)
            self.fc2 = nn.Linear(llm_dim, llm_dim)
        self.fused = fused

    def forward(self, features_BPD: Tensor) -> Tensor:
        """(B, P, D of all towers) -> (B, P, H), H the hidden size of the language model."""
        layers = [self.fc1, self.fc2, *([self.fc3] if self.fused else [])]
        (x_BPH,) = project(features_BPD, layers[0])
        for layer in layers[1:]:
            (x_BPH,) = project(functional.gelu(x_BPH), layer)
        return x_BPH
