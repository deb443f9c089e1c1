"""Write a checkpoint folder of the 7B's shape with random weights, to run its whole path at full size."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))
from benchmarks.vla import config_7b, config_tiny
from transformers_openvla_oft import OpenVLAForActionPrediction, PrismaticProcessor
from transformers_openvla_oft.processing.images import ImageSettings
from transformers_openvla_oft.small import DINOV2, MEANS, SIGLIP, STDS, libero_sentences, train_tokenizer

MAX_PROMPT_LENGTH = 128  # the published checkpoints'
BOUNDS = {"q01": [-1.0] * 6 + [0.0], "q99": [1.0] * 7, "mask": [True] * 6 + [False]}
FEW_PIECES = 643  # so that prompts come in as many tokens as with Llama's vocabulary: 17 to 46


def write(folder: Path, *, tiny: bool = False) -> None:
    """Weights in bfloat16, made on the GPU where there is one; 15 GB."""
    config = config_tiny() if tiny else config_7b()
    config.max_prompt_length = MAX_PROMPT_LENGTH
    config.norm_stats = {"libero_spatial_no_noops": {"action": BOUNDS}}
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    with device:
        model = OpenVLAForActionPrediction._from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder, max_shard_size="4GB")
    size = config.image_size
    settings = ImageSettings(image_size=size, means=(MEANS[DINOV2], MEANS[SIGLIP]), stds=(STDS[DINOV2], STDS[SIGLIP]))
    tokenizer = train_tokenizer(libero_sentences(), vocabulary_size=FEW_PIECES)
    PrismaticProcessor(tokenizer, images=settings, max_prompt_length=config.max_prompt_length).save_pretrained(folder)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tiny", action="store_true", help="a small model, to try the command")
    arguments = parser.parse_args()
    write(arguments.folder, tiny=arguments.tiny)
