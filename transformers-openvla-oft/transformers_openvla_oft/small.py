"""Fresh small checkpoints: the layout of the 7B policy at a size that a laptop trains and runs.

Nothing is downloaded. The tokenizer learns its pieces from LIBERO's task sentences and falls back to bytes, so that
every English sentence has tokens; the weights are random.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import nn
from transformers import LlamaConfig, PreTrainedTokenizerFast

from .model.configuration import OpenVLAConfig
from .model.modeling import model_class
from .processing.images import ImageSettings
from .processing.processor import PROMPT, PrismaticProcessor

UNK, BOS, EOS, PAD = "<unk>", "<s>", "</s>", "<PAD>"
NUM_ACTION_BINS = 256
PAD_TO_MULTIPLE_OF = 64
# Split at spaces, which stay at the front of a word as in Llama; the fixed end of the prompt stays in one piece.
PROMPT_SUFFIX = Regex(r"\?\nOut:")

DINOV2, SIGLIP = "vit_large_patch14_reg4_dinov2.lvd142m", "vit_so400m_patch14_siglip_224"
MEANS = {DINOV2: (0.484375, 0.455078125, 0.40625), SIGLIP: (0.5, 0.5, 0.5)}
STDS = {DINOV2: (0.228515625, 0.2236328125, 0.224609375), SIGLIP: (0.5, 0.5, 0.5)}


@dataclass(frozen=True)
class TowerSizes:
    """One vision tower. `depth` blocks run; the checkpoint holds one more, which OpenVLA never runs."""

    timm_id: str = SIGLIP
    embed_dim: int = 256
    depth: int = 4
    num_heads: int = 4
    mlp_ratio: float = 4.0


@dataclass(frozen=True)
class SmallSizes:
    """Sizes of a small policy; with one action per chunk it is autoregressive."""

    image_size: int = 128
    patch_size: int = 16
    towers: tuple[TowerSizes, ...] = (TowerSizes(),)
    hidden_size: int = 320
    num_layers: int = 6
    num_heads: int = 5
    intermediate_size: int = 896
    vocabulary_size: int = 1024
    max_prompt_length: int = 32
    num_images: int = 1
    num_actions_chunk: int = 8

    def config(self) -> OpenVLAConfig:
        """The checkpoint's configuration."""
        fused = len(self.towers) == 2
        return OpenVLAConfig(
            vision_backbone_id="small-" + "-".join("dinov2" if t.timm_id == DINOV2 else "siglip" for t in self.towers),
            use_fused_vision_backbone=fused,
            timm_model_ids=[tower.timm_id for tower in self.towers],
            timm_override_act_layers=[None] * len(self.towers),
            timm_model_kwargs=[self._timm_kwargs(tower) for tower in self.towers],
            image_sizes=[self.image_size] * len(self.towers),
            arch_specifier="no-align+fused-gelu-mlp" if fused else "no-align+gelu-mlp",
            hf_llm_id="none",
            llm_backbone_id="small-llama",
            llm_max_length=2048,
            pad_token_id=self.vocabulary_size,
            pad_to_multiple_of=PAD_TO_MULTIPLE_OF,
            num_actions_chunk=self.num_actions_chunk,
            num_images_in_input=self.num_images,
            max_prompt_length=self.max_prompt_length,
            text_config=LlamaConfig(
                vocab_size=self.vocabulary_size + PAD_TO_MULTIPLE_OF,
                hidden_size=self.hidden_size,
                intermediate_size=self.intermediate_size,
                num_hidden_layers=self.num_layers,
                num_attention_heads=self.num_heads,
                num_key_value_heads=self.num_heads,
                pad_token_id=self.vocabulary_size,
                bos_token_id=1,
                eos_token_id=2,
            ),
        )

    def _timm_kwargs(self, tower: TowerSizes) -> dict[str, Any]:
        return {
            "embed_dim": tower.embed_dim,
            "depth": tower.depth + 1,
            "num_heads": tower.num_heads,
            "mlp_ratio": tower.mlp_ratio,
            "patch_size": self.patch_size,
            "img_size": self.image_size,
            # A pooling head would only take space, and a layer scale of 1e-5 is meant for very deep towers.
            "global_pool": "token",
            "init_values": None,
        }


@cache
def libero_sentences() -> tuple[str, ...]:
    """Task sentences of LIBERO (arXiv:2306.03310), lower case, each once."""
    return tuple(files(__package__).joinpath("libero_sentences.txt").read_text(encoding="utf-8").splitlines())


def train_tokenizer(sentences: Sequence[str], *, vocabulary_size: int) -> PreTrainedTokenizerFast:
    """A byte-fallback BPE tokenizer laid out like Llama-2's.

    Ids: unk, BOS, EOS, 256 bytes, learnt pieces, unused pieces, 256 action tokens; `<PAD>` follows as an added token.
    """
    specials = [UNK, BOS, EOS]
    byte_pieces = [f"<0x{byte:02X}>" for byte in range(256)]
    num_learnt = vocabulary_size - len(specials) - len(byte_pieces) - NUM_ACTION_BINS
    pieces, merges = _learn_pieces(sentences, max_pieces=num_learnt)
    unused = [f"<unused_{i}>" for i in range(num_learnt - len(pieces))]
    actions = [f"<action_{i}>" for i in range(NUM_ACTION_BINS)]
    vocabulary = {piece: i for i, piece in enumerate([*specials, *byte_pieces, *pieces, *unused, *actions])}

    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, unk_token=UNK, byte_fallback=True, fuse_unk=True))
    tokenizer.pre_tokenizer = _pre_tokenizer()
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(), decoders.Fuse()])
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{BOS} $A", special_tokens=[(BOS, 1)])
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in [*specials, PAD]])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token=UNK,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        padding_side="right",
        model_max_length=2048,
        clean_up_tokenization_spaces=False,
    )


def create_small_checkpoint(
    path: str | Path,
    *,
    sizes: SmallSizes | None = None,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    norm_stats: dict[str, Any] | None = None,
) -> None:
    """Write a fresh checkpoint folder: configuration, weights, tokenizer and image settings.

    norm_stats: as in `dataset_statistics.json`; may be added to the folder later.
    """
    sizes = sizes or SmallSizes()
    config = sizes.config()
    config.norm_stats = norm_stats or {}
    processor = PrismaticProcessor(
        train_tokenizer(libero_sentences(), vocabulary_size=sizes.vocabulary_size),
        images=ImageSettings(
            image_size=sizes.image_size,
            means=tuple(MEANS[tower.timm_id] for tower in sizes.towers),
            stds=tuple(STDS[tower.timm_id] for tower in sizes.towers),
        ),
        max_prompt_length=sizes.max_prompt_length,
        num_images=sizes.num_images,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = model_class(config)(config)
    nn.Module.to(model, dtype)  # the override in transformers has no types
    model.save_pretrained(path)
    processor.save_pretrained(path)


def _pre_tokenizer() -> pre_tokenizers.Sequence:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(PROMPT_SUFFIX, behavior="isolated"),
            pre_tokenizers.Metaspace(replacement="\u2581", prepend_scheme="first", split=True),
        ]
    )


def _learn_pieces(sentences: Sequence[str], *, max_pieces: int) -> tuple[list[str], list[tuple[str, str]]]:
    """Pieces in order of learning, and the merges that build them."""
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = _pre_tokenizer()
    # A word must occur in two sentences' worth of text to be worth a piece, so every sentence is given twice.
    corpus = [PROMPT.format(task=sentence) for sentence in sentences] * 2
    learner.train_from_iterator(corpus, trainers.BpeTrainer(vocab_size=max_pieces, show_progress=False))
    model = json.loads(learner.to_str())["model"]
    pieces = sorted(model["vocab"], key=model["vocab"].__getitem__)
    return pieces, [(left, right) for left, right in model["merges"]]
