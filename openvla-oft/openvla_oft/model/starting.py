"""The policy that a training starts from: how a stored checkpoint is used, and what an adapter brings with it.

How many actions a checkpoint decodes and how many pictures it reads changes no weight's shape. Published checkpoints of
OpenVLA say neither: they are used with the pictures of ``--cameras`` and the ``--actions-per-chunk`` that is asked for.
Ours say both.
"""

import argparse
import logging
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from openvla_oft.arguments import small_sizes
from openvla_oft.model import checkpoints
from openvla_oft.model.training_record import training_record
from openvla_oft.torch_utils.distributed import Ranks
from transformers_openvla_oft.loading import reading
from transformers_openvla_oft.model.configuration import OpenVLAConfig
from transformers_openvla_oft.model.language import choose_attention
from transformers_openvla_oft.model.modeling import OpenVLAForActionPrediction
from transformers_openvla_oft.processing import PrismaticProcessor
from transformers_openvla_oft.small import create_small_checkpoint

logger = logging.getLogger(__name__)

START_FOLDER = "start"


@dataclass(frozen=True)
class Usage:
    """How the weights of a checkpoint are used."""

    num_actions_chunk: int
    num_images: int


def initial_policy(
    options: argparse.Namespace, *, folder: Path, device: torch.device, attention: str, ranks: Ranks
) -> tuple[OpenVLAForActionPrediction, PrismaticProcessor]:
    """The policy of --init in float32 on the device, and its processor; rank 0 makes a fresh one in ``folder``.

    Collective; one rank after the other, as eight copies of a 7B policy do not fit the main memory of most hosts.
    """

    def load() -> tuple[OpenVLAForActionPrediction, PrismaticProcessor]:
        model, processor = load_base(options, start, attention=attention)
        nn.Module.to(model, device)  # transformers hides the types of its own `to`
        return model, processor

    start = Path(options.init)
    if options.init == "small":
        start = folder / START_FOLDER
        if ranks.is_first:
            create_small_checkpoint(start, sizes=small_sizes(options), seed=options.seed)
        ranks.wait()
    model, processor = ranks.in_turn(load)
    if (options.objective == "l1" or options.layout == "oft") and model.config.num_actions_chunk == 1:
        raise ValueError(
            "--objective l1 and --layout oft need a policy that decodes in parallel; this one decodes token by token"
        )
    if options.proprio and options.layout != "oft":
        raise ValueError("--proprio needs --layout oft; the sequence of reinforcement learning has no place for it")
    for trained in (None if options.init == "small" else start, options.lora_path):
        _warn_of_other_pictures(trained, options.pictures)
    if options.lora_path is not None:
        _take_statistics(model, options.lora_path)
    return model, processor


def load_base(
    options: argparse.Namespace, folder: Path | None = None, *, attention: str = "sdpa"
) -> tuple[OpenVLAForActionPrediction, PrismaticProcessor]:
    """Model in float32 and processor of --init (or of what stands for it in ``folder``), used as the options say."""
    folder = folder or Path(options.init)
    usage = usage_of(options, folder)
    return checkpoints.load_for_training(
        folder, num_actions_chunk=usage.num_actions_chunk, num_images=usage.num_images, attention=attention
    )


def usage_of(options: argparse.Namespace, folder: Path) -> Usage:
    """How --init, stored in ``folder``, is used.

    Raises:
        ValueError: the checkpoint, or the adapter that is continued, says otherwise than the options.
    """
    checkpoints.check_is_checkpoint(folder)
    with reading(folder):
        stored = OpenVLAConfig.get_config_dict(folder)[0]
    wanted = options.actions_per_chunk if "actions_per_chunk" in options.given else None
    num_images = len(options.cameras)
    chunk = _agreed("num_actions_chunk", stored.get("num_actions_chunk"), wanted, where=folder)
    if stored.get("num_images_in_input", 1) > 1:
        _agreed("num_images_in_input", stored["num_images_in_input"], num_images, where=folder)
    if options.lora_path is not None:
        trained = training_record(options.lora_path)
        if trained is not None:
            chunk = _agreed("num_actions_chunk", trained.actions_per_chunk, chunk, where=options.lora_path)
            if trained.cameras is not None:
                _agreed("num_images_in_input", len(trained.cameras), num_images, where=options.lora_path)
    return Usage(OpenVLAConfig.num_actions_chunk if chunk is None else chunk, num_images)


def attention_route(options: argparse.Namespace, *, bf16: bool, compiled_whole: bool) -> str:
    """--attention, else the fastest that runs here.

    flash-attention leaves pads out, so that every batch has another shape: a step that is compiled as a whole does
    without.
    """
    wanted = "sdpa" if options.attention is None and compiled_whole else options.attention
    try:
        return choose_attention(wanted, dtype=torch.bfloat16 if bf16 else torch.float32)
    except ValueError as error:
        raise ValueError(f"--attention {wanted}: {error}") from error


def _agreed(name: str, stated: object, wanted: int | None, *, where: Path) -> int | None:
    """What is stated, where that is also what is wanted; either may be missing."""
    options = {"num_actions_chunk": "--actions-per-chunk", "num_images_in_input": "the number of --cameras"}
    if not isinstance(stated, int):
        return wanted
    if wanted not in (None, stated):
        raise ValueError(
            f"{where} was trained with {name}={stated}, but {options[name]} is {wanted}; give {stated}, or another "
            f"checkpoint"
        )
    return stated


def _warn_of_other_pictures(folder: Path | None, pictures: str) -> None:
    """Say where a policy that was trained on one kind of pictures goes on with another."""
    trained = None if folder is None else training_record(folder)
    if trained is not None and trained.pictures not in (None, pictures):
        logger.warning("%s was trained with --pictures %s, and goes on with %s", folder, trained.pictures, pictures)


def _take_statistics(model: OpenVLAForActionPrediction, adapter: Path) -> None:
    """Put the statistics of an adapter over those of its base: its tokens mean what these say."""
    own, base = checkpoints.stored_statistics(adapter), model.config.norm_stats or {}
    if not own and not base:
        logger.warning(
            "neither %s nor its base has %s: action tokens will mean what the new data's statistics say",
            adapter,
            checkpoints.STATISTICS_FILE,
        )
    differing = sorted(key for key in own if key in base and own[key]["action"] != base[key]["action"])
    if differing:
        logger.warning("%s has other statistics of %s than its base; the adapter's are used", adapter, differing)
    model.config.norm_stats = {**base, **own}
