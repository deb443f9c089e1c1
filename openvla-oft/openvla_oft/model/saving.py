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
from openvla_oft.torch_utils.tensors import gather, trainable
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
    options: FinetuneOptions,
    processor: PrismaticProcessor,
    statistics: Mapping[str, Statistics],
    distributed: Distributed,
) -> None:
    """Write the trained weights: a checkpoint folder, or an adapter folder where one was trained. Collective."""
    adapted = isinstance(learner.policy, PeftModel)
    source: Mapping[str, Tensor] = trainable(learner) if adapted else learner.state_dict()
    tensors = gather(source, keep=distributed.is_first)
    if not distributed.is_first:
        return
    checkpoints.check_finite(tensors)
    save_statistics(folder, statistics)
    policy = _part(tensors, POLICY)
    if isinstance(learner.policy, PeftModel):
        adapters.save_adapter(learner.policy, folder, policy)
        if options.lora.merge:
            model, _ = load_base(options)
            merge_adapters(model, [folder], coeff=1.0)
            _add_statistics(model, statistics)
            state = dict(model.state_dict())
            for name in (adapters.CONFIG_FILE, adapters.WEIGHTS_FILE):
                (folder / name).unlink()
            checkpoints.save_policy(
                folder, model=model, tensors=state, processor=processor, save_dtype=options.run.save_dtype
            )
    else:
        trained = learner.policy
        assert isinstance(trained, OpenVLAForActionPrediction)
        _add_statistics(trained, statistics)
        checkpoints.save_policy(
            folder, model=trained, tensors=policy, processor=processor, save_dtype=options.run.save_dtype
        )
    if learner.action_head is not None:
        heads.save(_part(tensors, HEAD), folder / heads.HEAD_FILE)
    if learner.proprio_projector is not None:
        heads.save(_part(tensors, PROJECTOR), folder / heads.PROJECTOR_FILE)


def read_back(folder: Path, *, options: FinetuneOptions, device: torch.device) -> Learner:
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
        layout=options.targets.layout,
    )
    nn.Module.to(learner, device)
    return learner.train(mode=False)


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _add_statistics(model: OpenVLAForActionPrediction, statistics: Mapping[str, Statistics]) -> None:
    model.config.norm_stats = {**(model.config.norm_stats or {}), **statistics}
