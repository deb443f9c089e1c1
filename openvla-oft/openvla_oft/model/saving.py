"""What a training leaves: a whole checkpoint or an adapter, its head and statistics, and what they are worth.

Functions that gather sharded weights are collective; rank 0 writes.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from peft import PeftModel
from torch import Tensor, nn

from openvla_oft.data.statistics import Statistics
from openvla_oft.model import checkpoints
from openvla_oft.model.initial import load_base
from openvla_oft.model.learner import Learner
from openvla_oft.model.statistics import save_statistics
from openvla_oft.options import FinetuneOptions
from openvla_oft.torch_utils.distributed import Distributed
from openvla_oft.torch_utils.tensors import gather, trainable_parameters
from transformers_openvla_oft import adapters
from transformers_openvla_oft.model.heads import L1ActionHead, ProprioProjector
from transformers_openvla_oft.model.modeling import OpenVLAForActionPrediction
from transformers_openvla_oft.processing import PrismaticProcessor

POLICY = "policy."
HEAD = "action_head."
PROJECTOR = "proprio_projector."


def write(
    folder: Path,
    learner: Learner,
    *,
    options: FinetuneOptions,
    processor: PrismaticProcessor,
    statistics: Mapping[str, Statistics],
    distributed: Distributed,
) -> None:
    """Write the trained weights: a checkpoint folder, or an adapter folder where one was trained. Collective."""
    adapted = isinstance(learner.policy, PeftModel)
    source: Mapping[str, Tensor] = trainable_parameters(learner) if adapted else learner.state_dict()
    tensors = gather(source, keep=distributed.is_first)
    if not distributed.is_first:
        return
    save_statistics(folder, statistics)
    policy = _part(tensors, POLICY)
    model = learner.policy
    if isinstance(model, PeftModel):
        adapters.save_adapter(model, folder, policy)
        if options.lora.merge:
            model, _ = load_base(options)
            adapters.merge_adapters(model, [folder], coeff=1.0)
            policy = dict(model.state_dict())
            for name in (adapters.CONFIG_FILE, adapters.WEIGHTS_FILE):
                (folder / name).unlink()
    if isinstance(model, OpenVLAForActionPrediction):
        model.config.norm_stats = {**(model.config.norm_stats or {}), **statistics}
        checkpoints.save_policy(
            folder, model=model, tensors=policy, processor=processor, save_dtype=options.run.save_dtype
        )
    if learner.action_head is not None:
        L1ActionHead.save(_part(tensors, HEAD), folder)
    if learner.proprio_projector is not None:
        ProprioProjector.save(_part(tensors, PROJECTOR), folder)


def read_back(folder: Path, *, options: FinetuneOptions, device: torch.device) -> Learner:
    """The stored policy, as whoever uses it will see it: rounded to the stored precision."""
    if (folder / adapters.WEIGHTS_FILE).is_file():
        base, _ = load_base(options)
        policy: nn.Module = adapters.attach_adapter(base, adapters.read_config(folder), path=folder, seed=0)
    else:
        policy = checkpoints.load_for_training(folder)[0]
    head, projector = L1ActionHead.file_in(folder), ProprioProjector.file_in(folder)
    learner = Learner(
        policy,
        None if head is None else L1ActionHead.load(head),
        None if projector is None else ProprioProjector.load(projector),
        layout=options.targets.layout,
    )
    nn.Module.to(learner, device)
    return learner.train(mode=False)


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
