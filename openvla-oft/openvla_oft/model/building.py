"""What a training needs beside its policy (``starting``): demonstrations, statistics, the module that is trained."""

import argparse
import logging
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from openvla_oft.data import dataset
from openvla_oft.data.dataset import DemonstrationSet
from openvla_oft.data.demonstration import PROPRIO_DIM
from openvla_oft.data.frames import DeviceFrames, FileFrames, FrameStore
from openvla_oft.data.statistics import Statistics, action_statistics, normalised_proprio, proprio_statistics
from openvla_oft.model import checkpoints, lora
from openvla_oft.model.learner import Learner
from openvla_oft.model.lora import LoraSettings
from openvla_oft.model.training_record import ACTION_HEAD, PROPRIO, training_record
from openvla_oft.torch_utils import sharding
from openvla_oft.torch_utils.distributed import Ranks
from openvla_oft.train.objectives import L1Objective, Objective, OftTokenObjective, TokenObjective
from transformers_openvla_oft.model import heads, layouts
from transformers_openvla_oft.model.action_tokens import ActionTokenMap
from transformers_openvla_oft.model.blocks import checkpoint_blocks
from transformers_openvla_oft.model.modeling import OpenVLAForActionPrediction

logger = logging.getLogger(__name__)

FRAMES_FOLDER = "frames"
MEMORY_SHARE = 0.5
"""Part of the free memory that pictures may take before they stay in a file."""


def load_demonstrations(
    options: argparse.Namespace, *, image_size: int, folder: Path, ranks: Ranks
) -> DemonstrationSet:
    """Read the demonstrations; several processes share one packed copy in ``folder``. Collective.

    A copy is also made where pictures are wanted in a file, or would fill the main memory.
    """
    reading = {
        "suite": options.suite,
        "cameras": options.cameras,
        "image_size": image_size,
        "action_key": options.action_key,
        "drop_noops": options.drop_noops,
        "proprio": options.proprio,
        "pictures": options.pictures,
        "max_demos_per_task": options.max_demos_per_task,
    }
    source: Path = options.demonstrations
    workers = options.num_workers
    if (source / dataset.PACK_FILE).is_file():
        return dataset.load(source, **reading)
    if ranks.world_size == 1 and options.frames != "file":
        needed = dataset.num_bytes(source, **reading)
        if options.frames == "device" or needed <= MEMORY_SHARE * _main_memory():
            return dataset.load(source, **reading, num_workers=workers)
    packed = folder / FRAMES_FOLDER
    if ranks.is_first and not packed.exists():
        dataset.pack(source, packed, **reading, num_workers=workers)
    ranks.wait()
    return dataset.load(packed, **{**reading, "max_demos_per_task": None})


def frame_store(images_FNHWC: NDArray[np.uint8], device: torch.device, *, kind: str) -> FrameStore:
    """Pictures on the device where they fit, else in the file that they come from."""
    if kind == "auto":
        free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else _main_memory()
        kind = "device" if images_FNHWC.nbytes <= MEMORY_SHARE * free else "file"
    logger.info("pictures: %.1f GB, %s", images_FNHWC.nbytes / 1e9, {"device": "on the device"}.get(kind, "in a file"))
    return DeviceFrames(images_FNHWC, device) if kind == "device" else FileFrames(images_FNHWC, device)


def choose_statistics(
    options: argparse.Namespace, model: OpenVLAForActionPrediction, demos: DemonstrationSet
) -> dict[str, Statistics]:
    """By key, the same for every suite: the checkpoint's own where it has them, so that tokens keep their meaning.

    Those of an adapter that is continued count as the checkpoint's. Else the data's.

    Raises:
        ValueError: --unnorm-key names statistics that the checkpoint does not have, or it has others for each suite.
    """
    if options.unnorm_key is not None:
        return {options.unnorm_key: model.config.dataset_norm_stats(options.unnorm_key)}
    keys = [checkpoints.norm_stats_key(suite) for suite in options.suite.split(",")]
    all_stored = model.config.norm_stats or {}
    stored = [all_stored[key] for key in keys if key in all_stored]
    if stored:
        if any(statistics != stored[0] for statistics in stored):
            raise ValueError(
                f"the checkpoint normalises the actions of {options.suite} differently; train one suite at a time, or "
                f"choose one of its statistics with --unnorm-key"
            )
        if "action_bounds" in options.given:
            raise ValueError(
                f"--action-bounds would have no effect: the checkpoint has statistics of {options.suite}, which are "
                f"kept so that its tokens keep their meaning; leave it out"
            )
        known = stored[0]
        logger.info("keeping the checkpoint's action statistics for %s", options.suite)
        if demos.proprio_FP is not None and "proprio" not in known:
            known = {**known, "proprio": proprio_statistics(demos.proprio_FP)}
        return dict.fromkeys(keys, known)
    computed = action_statistics(
        demos.actions_FA, num_trajectories=len(demos.demo_lengths_D), bounds=options.action_bounds
    )
    if demos.proprio_FP is not None:
        computed["proprio"] = proprio_statistics(demos.proprio_FP)
    return dict.fromkeys(keys, computed)


def normalised_proprio_of(demos: DemonstrationSet, statistics: Statistics, *, key: str) -> NDArray[np.float32] | None:
    """Proprioception of every frame as the policy takes it, where it was read."""
    if demos.proprio_FP is None:
        return None
    known = statistics.get("proprio")
    if not isinstance(known, dict):
        raise ValueError(f"--proprio: the statistics {key!r} have no 'proprio'; choose another --unnorm-key")
    return normalised_proprio(demos.proprio_FP, known)


def build_objective(
    options: argparse.Namespace, model: OpenVLAForActionPrediction, token_map: ActionTokenMap, device: torch.device
) -> Objective:
    """The loss that --objective, --layout and --label-sigma choose."""
    if options.objective == "l1":
        return L1Objective(token_map)
    if options.layout == "oft":
        end = layouts.end_token(model)
        return OftTokenObjective(token_map, end_token=end, label_sigma=options.label_sigma, device=device)
    return TokenObjective(token_map, label_sigma=options.label_sigma, device=device)


def build_learner(
    options: argparse.Namespace,
    model: OpenVLAForActionPrediction,
    *,
    adapter: LoraSettings | None,
    bf16: bool,
    compile_blocks: bool,
    device: torch.device,
    ranks: Ranks,
) -> Learner:
    """Adapter and head attached, on the device, sharded where there are several processes. Collective.

    Without a gradient to keep, the base of an adapter is stored in bfloat16 where that is computed in.
    """
    if options.gradient_checkpointing is not None:
        checkpoint_blocks(model, policy=options.gradient_checkpointing)
    policy: nn.Module = model
    if adapter is not None:
        if bf16:
            nn.Module.to(model, torch.bfloat16)
        policy = lora.attach(model, adapter, base=options.init, seed=options.seed)
    head = _action_head(options, model) if options.objective == "l1" else None
    projector = _proprio_projector(options, model) if options.proprio else None
    trained = Learner(policy, head, projector, layout=options.layout)
    nn.Module.to(trained, device)
    if ranks.mesh is not None:
        sharding.shard(trained, ranks.mesh, bf16=bf16, use_compile=compile_blocks, shard_frozen=options.shard_frozen)
    return trained


def _action_head(options: argparse.Namespace, model: OpenVLAForActionPrediction) -> heads.L1ActionHead:
    hidden_size = model.config.llama.hidden_size
    file = _stored_network(options, heads.head_file, need=ACTION_HEAD, flag="--objective l1", name=heads.HEAD_FILE)
    if file is None:
        return heads.fresh_head(hidden_size, action_dim=model.config.action_dim, seed=options.seed)
    head = heads.load_head(file)
    inputs = head.action_dim, head.model.fc1.in_features // head.action_dim
    _check_fits(file, inputs, (model.config.action_dim, hidden_size), "(action dimensions, hidden size)")
    return head


def _proprio_projector(options: argparse.Namespace, model: OpenVLAForActionPrediction) -> heads.ProprioProjector:
    hidden_size = model.config.llama.hidden_size
    file = _stored_network(options, heads.projector_file, need=PROPRIO, flag="--proprio", name=heads.PROJECTOR_FILE)
    if file is None:
        return heads.fresh_projector(hidden_size, proprio_dim=PROPRIO_DIM, seed=options.seed)
    projector = heads.load_projector(file)
    sizes = projector.fc1.in_features, projector.fc2.out_features
    _check_fits(file, sizes, (PROPRIO_DIM, hidden_size), "(proprioceptive dimensions, hidden size)")
    return projector


def _stored_network(
    options: argparse.Namespace, find: Callable[[Path], Path | None], *, need: str, flag: str, name: str
) -> Path | None:
    """The file of a small network: beside the adapter that is continued, else in --init; None: start with a fresh one.

    Raises:
        ValueError: that folder was trained with such a network and has lost it.
    """
    for folder in (options.lora_path, Path(options.init)):
        if folder is None:
            continue
        found = find(folder)
        if found is not None:
            return found
        trained = training_record(folder)
        if trained is not None and need in trained.needs:
            raise ValueError(
                f"{folder} was trained with {flag}, but has no {name}; copy that file there, as its policy is of no "
                f"use with a fresh one"
            )
    logger.info("%s starts with random weights: there is no %s yet", flag, name)
    return None


def _check_fits(file: Path, found: tuple[int, int], expected: tuple[int, int], what: str) -> None:
    if found != expected:
        raise ValueError(f"{file} is another policy's: its {what} are {found}, this policy's {expected}")


def _main_memory() -> int:
    """Bytes that are free or can be freed."""
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
