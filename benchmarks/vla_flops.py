"""Arithmetic of OpenVLA-OFT, counted from its configuration: floating-point operations of one sample.

A product of (m, k) and (k, n) matrices counts 2 m k n; everything that is no matrix product counts nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from transformers_openvla_oft import OpenVLAConfig
from transformers_openvla_oft.model.vision import TowerSpec, tower_specs


@dataclass(frozen=True)
class Operations:
    """base: products with frozen weights; adapter: those with an adapter's; attention: scores and mixing."""

    base: int = 0
    adapter: int = 0
    attention: int = 0

    def __add__(self, other: Operations) -> Operations:
        return Operations(self.base + other.base, self.adapter + other.adapter, self.attention + other.attention)

    def __mul__(self, times: int) -> Operations:
        return Operations(self.base * times, self.adapter * times, self.attention * times)


def forward_flops(config: OpenVLAConfig, *, prompt_tokens: int, rank: int = 0) -> float:
    """Of one forward pass; rank: of a LoRA adapter on every layer, 0 for none."""
    counted = _forward(config, prompt_tokens, rank)
    return float(counted.base + counted.adapter + counted.attention)


def training_flops(config: OpenVLAConfig, *, prompt_tokens: int, rank: int) -> float:
    """Of forward and backward, where only the adapter learns: frozen weights have no gradient of their own."""
    counted = _forward(config, prompt_tokens, rank)
    return float(2 * counted.base + 3 * counted.adapter + 3 * counted.attention)


def _forward(config: OpenVLAConfig, prompt_tokens: int, rank: int) -> Operations:
    specs = tower_specs(config)
    patches = specs[0].num_patches * config.num_images_in_input
    total = Operations()
    for spec in specs:
        total += _tower(spec, rank) * config.num_images_in_input
    vision, hidden = sum(spec.embed_dim for spec in specs), config.llama.hidden_size
    widths = [vision, 4 * vision, hidden, hidden] if config.use_fused_vision_backbone else [vision, hidden, hidden]
    for width, next_width in pairwise(widths):
        total += _linear(patches, width, next_width, rank)
    positions = patches + prompt_tokens + config.num_action_tokens
    total += _layer(config, positions, positions, rank) * (int(config.llama.num_hidden_layers) - 1)
    total += _layer(config, positions, config.num_action_tokens + 1, rank)  # the last one: positions that are read
    return total + _linear(config.num_action_tokens, hidden, config.n_action_bins, rank)


def _layer(config: OpenVLAConfig, positions: int, needed: int, rank: int) -> Operations:
    """needed: positions whose hidden states are computed; all have keys and values."""
    llama = config.llama
    hidden, inner = int(llama.hidden_size), int(llama.intermediate_size)
    key_width = hidden * int(llama.num_key_value_heads or llama.num_attention_heads) // int(llama.num_attention_heads)
    total = Operations(attention=4 * needed * positions * hidden)
    total += _linear(positions, hidden, key_width, rank) * 2
    for width, next_width in ((hidden, hidden), (hidden, hidden), (hidden, inner), (hidden, inner), (inner, hidden)):
        total += _linear(needed, width, next_width, rank)
    return total


def _tower(spec: TowerSpec, rank: int) -> Operations:
    """All blocks but the last, which does not run."""
    positions, width = spec.num_patches + spec.num_prefix_tokens, spec.embed_dim
    inner = int(width * spec.mlp_ratio)
    block = Operations(attention=4 * positions**2 * width)
    for size, next_size in ((width, 3 * width), (width, width), (width, inner), (inner, width)):
        block += _linear(positions, size, next_size, rank)
    return block * (spec.depth - 1) + _linear(spec.num_patches, 3 * spec.patch_size**2, width, rank)


def _linear(positions: int, width: int, next_width: int, rank: int) -> Operations:
    return Operations(2 * positions * width * next_width, 2 * positions * rank * (width + next_width))
