"""What a training leaves: a whole checkpoint or an adapter, its head and statistics, and what they are worth.

Functions that gather sharded weights are collective; rank 0 writes.
"""

import argparse
from collections.abc import Mapping
from pathlib import Path

import torch
from peft import PeftModel
from torch import Tensor, nn

from openvla_oft.data.batches import DeviceData
from openvla_oft.data.dataset import DemonstrationSet, Split
from openvla_oft.data.statistics import Statistics
from openvla_oft.model import checkpoints, lora
from openvla_oft.model.learner import Learner, gather, trainable
from openvla_oft.model.starting import load_base
from openvla_oft.torch_utils.distributed import Ranks
from openvla_oft.train.objectives import Objective
from openvla_oft.train.validation import evaluate, prediction_function
from transformers_openvla_oft import adapters
from transformers_openvla_oft.adapters import merge_adapters
from transformers_openvla_oft.model import heads
from transformers_openvla_oft.model.modeling import OpenVLAForActionPrediction
from transformers_openvla_oft.processing import PrismaticProcessor

POLICY = "policy."
HEAD = "action_head."
PROJECTOR = "proprio_projector."


def write(
    folder: Path,
    learner: Learner,
    *,
    options: argparse.Namespace,
    processor: PrismaticProcessor,
    statistics: Mapping[str, Statistics],
    ranks: Ranks,
) -> None:
    """Write the trained weights: a checkpoint folder, or an adapter folder where one was trained. Collective."""
    adapted = isinstance(learner.policy, PeftModel)
    source: Mapping[str, Tensor] = trainable(learner) if adapted else learner.state_dict()
    tensors = gather(source, keep=ranks.is_first)
    if not ranks.is_first:
        return
    checkpoints.check_finite(tensors)
    checkpoints.save_statistics(folder, statistics)
    policy = _part(tensors, POLICY)
    if isinstance(learner.policy, PeftModel):
        adapters.save_adapter(learner.policy, folder, policy)
        if options.merge:
            model, _ = load_base(options)
            merge_adapters(model, [folder], coeff=1.0)
            _add_statistics(model, statistics)
            state = dict(model.state_dict())
            for name in lora.ADAPTER_FILES:
                (folder / name).unlink()
            checkpoints.save_policy(
                folder, model=model, tensors=state, processor=processor, save_dtype=options.save_dtype
            )
    else:
        trained = learner.policy
        assert isinstance(trained, OpenVLAForActionPrediction)
        _add_statistics(trained, statistics)
        checkpoints.save_policy(
            folder, model=trained, tensors=policy, processor=processor, save_dtype=options.save_dtype
        )
    if learner.action_head is not None:
        heads.save(_part(tensors, HEAD), folder / heads.HEAD_FILE)
    if learner.proprio_projector is not None:
        heads.save(_part(tensors, PROJECTOR), folder / heads.PROJECTOR_FILE)


def read_back(folder: Path, *, options: argparse.Namespace, device: torch.device) -> Learner:
    """The stored policy, as whoever uses it will see it: rounded to the stored precision."""
    if (folder / adapters.WEIGHTS_FILE).is_file():
        base, _ = load_base(options)
        policy: nn.Module = adapters.attach_adapter(base, adapters.read_config(folder), path=folder, seed=0)
    else:
        policy = checkpoints.load_for_training(folder)[0]
    stored, felt = folder / heads.HEAD_FILE, folder / heads.PROJECTOR_FILE
    learner = Learner(
        policy,
        heads.load_head(stored) if stored.is_file() else None,
        heads.load_projector(felt) if felt.is_file() else None,
        layout=options.layout,
    )
    nn.Module.to(learner, device)
    return learner.train(mode=False)


def validate_per_task(
    learner: Learner,
    data: DeviceData,
    demos: DemonstrationSet,
    split: Split,
    *,
    objective: Objective,
    bf16: bool,
    batch_size: int,
) -> dict[str, dict[str, float]]:
    """Numbers on every held-out frame of each task."""
    predict = prediction_function(learner, data, bf16=bf16)
    tasks_V = demos.frame_tasks()[split.validation_frames]
    results = {}
    for task, language in enumerate(demos.languages):
        frames = torch.from_numpy(split.validation_frames[tasks_V == task])
        if frames.numel():
            results[language] = evaluate(predict, data, frames, objective=objective, batch_size=batch_size)
    return results


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _add_statistics(model: OpenVLAForActionPrediction, statistics: Mapping[str, Statistics]) -> None:
    model.config.norm_stats = {**(model.config.norm_stats or {}), **statistics}
