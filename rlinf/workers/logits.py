"""Computes base-model logits of demonstrations and stores them beside these; one of several workers, no Ray inside."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from libero_runtime.cpus import num_cpus
from rlinf.config.schema import Config
from rlinf.custom.methods.parts.replay import replayable
from rlinf.custom.replay.base_logits import is_current, logits_identity, write_logits
from rlinf.custom.replay.dataset import (
    Demonstration,
    DemonstrationRef,
    prepare_frames,
    read_demonstration,
    target_bins,
)
from rlinf.engines.distributed import local_device
from rlinf.engines.fsdp import DTYPES
from rlinf.models import PolicyInputs, PolicySource, ReplayablePolicy, load_policy


class LogitsPrecomputeWorker:
    """Holds one copy of the base model."""

    def __init__(self, config: Config, source: PolicySource, num_threads: int) -> None:
        torch.set_num_threads(config.rollout.num_threads or num_threads)
        torch.backends.cuda.matmul.allow_tf32 = True
        model = replace(config.actor.model, lora_path=None, previous_lora_paths=[])  # nothing but the base
        source = replace(source, trains=False)
        policy = load_policy(model, source, base_dtype=DTYPES[config.actor.fsdp.param_dtype])  # as it is while learning
        policy.to(local_device())
        self._policy = replayable(policy)
        self._cameras = config.env.cameras
        self._nearest = config.method.replay.targets == "nearest"
        self._max_batch = config.rollout.max_batch
        self._done = 0

    def compute(self, refs: Sequence[DemonstrationRef]) -> int:
        """Store the logits of these demonstrations; returns how many were not there or stale."""
        self._done = computed = 0
        for ref in refs:
            demo = read_demonstration(ref, cameras=self._cameras)
            bins_FT = target_bins(demo.actions_TA, self._policy, nearest=self._nearest)
            identity = logits_identity(ref, demo, bins_FT, self._policy)
            if not is_current(ref, identity):
                logits_FTV = base_logits(ref, demo, bins_FT, self._policy, max_batch=self._max_batch)
                write_logits(ref, identity, logits_FTV)
                computed += 1
            self._done += 1
        return computed

    def progress(self) -> int:
        """Demonstrations of the running call that are done."""
        return self._done


def base_logits(
    ref: DemonstrationRef, demo: Demonstration, bins_FT: Tensor, policy: ReplayablePolicy, *, max_batch: int
) -> Tensor:
    """The base model's logits of every frame of a demonstration (F, T, V), float32 in CPU memory; see
    ``ReplayablePolicy.action_logits`` for ``bins_FT``, the expert's."""
    inputs = prepare_frames(demo, ref.language, policy)
    parts = []
    for start in range(0, len(inputs), max_batch):
        rows = slice(start, start + max_batch)
        part = PolicyInputs(inputs.images_BNHWC[rows], inputs.languages[rows])
        logits_BTV = policy.base_logits(part, bins_FT[rows].to(part.images_BNHWC.device))
        parts.append(logits_BTV.float().cpu())
    return torch.cat(parts)


def divide(refs: Sequence[DemonstrationRef], num_workers: int) -> list[tuple[DemonstrationRef, ...]]:
    """Share demonstrations out so that every worker has about as many frames: the longest go first, each to the
    worker with the least."""
    shares: list[list[DemonstrationRef]] = [[] for _ in range(num_workers)]
    loads = [0] * num_workers
    for ref in sorted(refs, key=lambda ref: (-ref.num_steps, str(ref.path), ref.name)):
        least = loads.index(min(loads))
        shares[least].append(ref)
        loads[least] += ref.num_steps
    return [tuple(share) for share in shares]


def threads_per_worker(num_workers: int) -> int:
    """CPU threads of one worker where nothing else runs beside them."""
    return max(1, num_cpus() // num_workers)
