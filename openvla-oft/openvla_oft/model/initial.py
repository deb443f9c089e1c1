"""The module that a training starts from: how a stored checkpoint is used, an adapter and the networks beside it.

How many actions a checkpoint decodes and how many images it reads changes no weight's shape. Published checkpoints of
OpenVLA say neither: they are used with the images of ``--cameras`` and the ``--actions-per-chunk`` that is asked for.
Ours say both.
"""

import logging
from pathlib import Path
from typing import TypeVar

import torch
from peft import PeftModel
from torch import nn

from openvla_oft.data.demonstration import PROPRIO_DIM
from openvla_oft.model import checkpoints
from openvla_oft.model.learner import Learner, shard
from openvla_oft.model.statistics import take_adapter_statistics
from openvla_oft.model.training_record import ACTION_HEAD, PROPRIO, training_record
from openvla_oft.options import SMALL, FinetuneOptions, LoraOptions
from openvla_oft.torch_utils.distributed import Distributed
from transformers_openvla_oft import adapters
from transformers_openvla_oft.loading import reading
from transformers_openvla_oft.model.blocks import checkpoint_blocks
from transformers_openvla_oft.model.configuration import OpenVLAConfig
from transformers_openvla_oft.model.heads import L1ActionHead, ProprioProjector
from transformers_openvla_oft.model.language import choose_attention
from transformers_openvla_oft.model.modeling import OpenVLAForActionPrediction, lora_target_modules
from transformers_openvla_oft.processing import PrismaticProcessor
from transformers_openvla_oft.small import create_small_checkpoint

logger = logging.getLogger(__name__)

START_FOLDER = "start"
NetworkT = TypeVar("NetworkT", L1ActionHead, ProprioProjector)


def initial_policy(
    options: FinetuneOptions, *, folder: Path, device: torch.device, distributed: Distributed
) -> tuple[OpenVLAForActionPrediction, PrismaticProcessor]:
    """The policy of --init in float32 on the device, and its processor; rank 0 makes a fresh one in ``folder``.

    Collective; one rank after the other, as eight copies of a 7B policy do not fit the main memory of most hosts.
    """

    def load() -> tuple[OpenVLAForActionPrediction, PrismaticProcessor]:
        model, processor = load_base(options, start, attention=attention)
        nn.Module.to(model, device)  # transformers hides the types of its own `to`
        return model, processor

    attention = _attention_route(options, compiled_whole=options.training.use_compile and distributed.mesh is None)
    start = Path(options.run.init)
    if options.run.init == SMALL:
        start = folder / START_FOLDER
        if distributed.is_first:
            sizes = options.sizes.small(
                num_images=len(options.data.cameras), num_actions_chunk=options.targets.actions_per_chunk
            )
            create_small_checkpoint(start, sizes=sizes, seed=options.training.seed)
        distributed.wait()
    model, processor = distributed.in_turn(load)
    if (options.targets.objective == "l1" or options.targets.layout == "oft") and model.config.num_actions_chunk == 1:
        raise ValueError(
            "--objective l1 and --layout oft need a policy that decodes in parallel; this one decodes token by token"
        )
    if options.data.proprio and options.targets.layout != "oft":
        raise ValueError("--proprio needs --layout oft; the sequence of reinforcement learning has no place for it")
    for trained in (None if options.run.init == SMALL else start, options.lora.path):
        _warn_of_other_pictures(trained, options.data.pictures)
    if options.lora.path is not None:
        take_adapter_statistics(model, options.lora.path)
    return model, processor


def load_base(
    options: FinetuneOptions, folder: Path | None = None, *, attention: str = "sdpa"
) -> tuple[OpenVLAForActionPrediction, PrismaticProcessor]:
    """Model in float32 and processor of --init (or of what stands for it in ``folder``), used as the options say."""
    folder = folder or Path(options.run.init)
    return checkpoints.load_for_training(
        folder, num_actions_chunk=_chunk_of(options, folder), num_images=len(options.data.cameras), attention=attention
    )


def _chunk_of(options: FinetuneOptions, folder: Path) -> int:
    """How many actions --init, stored in ``folder``, decodes at once.

    Raises:
        ValueError: the checkpoint, or the adapter that is continued, says otherwise than the options.
    """
    if not (folder / "config.json").is_file():
        raise ValueError(f"--init {folder}: no config.json there; expected 'small' or a Hugging Face checkpoint folder")
    with reading(folder):
        stored = OpenVLAConfig.get_config_dict(folder)[0]
    wanted = options.targets.actions_per_chunk if "actions-per-chunk" in options.given else None
    num_images = len(options.data.cameras)
    chunk = _agreed("num_actions_chunk", stored.get("num_actions_chunk"), wanted, where=folder)
    if stored.get("num_images_in_input", 1) > 1:
        _agreed("num_images_in_input", stored["num_images_in_input"], num_images, where=folder)
    if options.lora.path is not None:
        trained = training_record(options.lora.path)
        if trained is not None:
            chunk = _agreed("num_actions_chunk", trained.actions_per_chunk, chunk, where=options.lora.path)
            if trained.cameras is not None:
                _agreed("num_images_in_input", len(trained.cameras), num_images, where=options.lora.path)
    return OpenVLAConfig.num_actions_chunk if chunk is None else chunk


def _attention_route(options: FinetuneOptions, *, compiled_whole: bool) -> str:
    """--attention, else the fastest that runs here.

    flash-attention leaves pads out, so that every batch has another shape: a step that is compiled as a whole does
    without.
    """
    wanted = "sdpa" if options.model.attention is None and compiled_whole else options.model.attention
    try:
        return choose_attention(wanted, dtype=torch.bfloat16 if options.training.bf16 else torch.float32)
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
    """Say where a policy that was trained on one kind of images goes on with another."""
    trained = None if folder is None else training_record(folder)
    if trained is not None and trained.pictures not in (None, pictures):
        logger.warning("%s was trained with --pictures %s, and goes on with %s", folder, trained.pictures, pictures)


def build_learner(
    options: FinetuneOptions, model: OpenVLAForActionPrediction, *, device: torch.device, distributed: Distributed
) -> Learner:
    """Adapter and head attached, on the device, sharded where there are several processes. Collective.

    Without a gradient to keep, the base of an adapter is stored in bfloat16 where that is computed in.
    """
    training, lora = options.training, options.lora
    if options.model.gradient_checkpointing is not None:
        checkpoint_blocks(model, policy=options.model.gradient_checkpointing)
    policy: nn.Module = model
    if lora.rank is not None:
        if training.bf16:
            nn.Module.to(model, torch.bfloat16)
        policy = attach_lora(model, lora, base=options.run.init, seed=training.seed)
    head = projector = None
    hidden_size = model.config.llama.hidden_size
    if options.targets.objective == "l1":
        sizes = hidden_size, model.config.action_dim
        head = _stored_or_fresh(L1ActionHead, sizes, options, need=ACTION_HEAD, flag="--objective l1")
    if options.data.proprio:
        sizes = hidden_size, PROPRIO_DIM
        projector = _stored_or_fresh(ProprioProjector, sizes, options, need=PROPRIO, flag="--proprio")
    learner = Learner(policy, head, projector, layout=options.targets.layout)
    nn.Module.to(learner, device)
    if distributed.mesh is not None:
        shard(
            learner,
            distributed.mesh,
            bf16=training.bf16,
            use_compile=training.use_compile,
            shard_frozen=lora.shard_frozen,
        )
    return learner


def attach_lora(model: OpenVLAForActionPrediction, lora: LoraOptions, *, base: str, seed: int) -> PeftModel:
    """Wrap ``model`` with a trainable adapter (LoRA, arXiv:2106.09685), a fresh one or the stored ``lora.path``.

    base: name of the base checkpoint, for the adapter's configuration.
    """
    assert lora.rank is not None
    if lora.path is None:
        config = adapters.fresh_config(
            target_modules=lora_target_modules(model),
            rank=lora.rank,
            alpha=lora.alpha,
            dropout=lora.dropout,
            base=base,
        )
    else:
        if not (lora.path / adapters.CONFIG_FILE).is_file():
            raise ValueError(
                f"--lora-path {lora.path}: no {adapters.CONFIG_FILE} there; expected a PEFT adapter folder"
            )
        config = adapters.read_config(lora.path)
        if config.r != lora.rank:
            raise ValueError(
                f"the adapter in {lora.path} has rank {config.r}, but --lora-rank {lora.rank} is asked for; "
                f"give --lora-rank {config.r} or another adapter"
            )
    return adapters.attach_adapter(model, config, path=lora.path, seed=seed)


def _stored_or_fresh(
    network: type[NetworkT], sizes: tuple[int, int], options: FinetuneOptions, *, need: str, flag: str
) -> NetworkT:
    """A small network: that beside the adapter that is continued, else that in --init, else a fresh one.

    sizes: that it must have (see its class). need: what ``training_record`` calls it.

    Raises:
        ValueError: the stored one is another policy's, or its folder was trained with one and has lost it.
    """
    for folder in (options.lora.path, Path(options.run.init)):
        if folder is None:
            continue
        file = network.file_in(folder)
        if file is not None:
            stored = network.load(file)
            if stored.sizes != sizes:
                raise ValueError(f"{file} is another policy's: its sizes are {stored.sizes}, this policy's {sizes}")
            return stored
        trained = training_record(folder)
        if trained is not None and need in trained.needs:
            raise ValueError(
                f"{folder} was trained with {flag}, but has no {network.FILE}; copy that file there, as its policy is "
                f"of no use with a fresh one"
            )
    logger.info("%s starts with random weights: there is no %s yet", flag, network.FILE)
    return network.fresh(*sizes, seed=options.training.seed)
