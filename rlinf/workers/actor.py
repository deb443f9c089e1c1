"""Learning: one FSDP rank."""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray

from libero_runtime.cpus import num_cpus
from rlinf.config.schema import Config
from rlinf.custom.methods import TaskContext, make_method
from rlinf.data import RolloutBatch
from rlinf.engines.checkpoint import load_training_state, save_actor
from rlinf.engines.distributed import join_group, leave_group, local_device, meeting_point, set_up_torch
from rlinf.engines.fsdp import DTYPES, gather_trainable, shard
from rlinf.engines.learner import PolicyLearner
from rlinf.models import PolicySource, load_policy
from rlinf.reporting.trace import RECORDER, Traced, traced


class ActorWorker(Traced):
    """Holds a shard of the policy and its optimizer. Methods are collective."""

    def __init__(self, rank: int, world_size: int, config: Config, source: PolicySource) -> None:
        set_up_torch(config.actor.num_threads or max(1, num_cpus() // world_size))
        self._kept: RolloutBatch | None = None
        self._rank = rank
        self._world_size = world_size
        self._config = config
        self._source = source
        self._fraction, self._reported_ns = 0.0, 0

    def rendezvous(self, folder: Path) -> str:
        """Where the group meets if this is rank 0; ``folder``: of the driver, for a cluster on one machine."""
        return meeting_point(ray.util.get_node_ip_address(), folder)

    def setup(self, init_method: str, resume_from: Path | None) -> int:
        """Join the group that meets there, build and shard the policy; returns the epoch to go on from.

        resume_from: a checkpoint of this run; its adapter and training state replace the configured start.
        """
        config = self._config
        mesh = join_group(
            rank=self._rank,
            world_size=self._world_size,
            init_method=init_method,
            own_address=ray.util.get_node_ip_address(),
        )
        model = config.actor.model
        policy = load_policy(
            replace(model, lora_path=str(resume_from)) if resume_from else model,
            self._source,
            base_dtype=DTYPES[config.actor.fsdp.param_dtype],
        )
        device = local_device()
        policy.to(device)
        shard(
            policy.module,
            policy.units(),
            mesh,
            param_dtype=config.actor.fsdp.param_dtype,
            reshard_after_forward=config.actor.fsdp.reshard_after_forward,
            shard_frozen=bool(config.actor.fsdp.shard_frozen),
            value_head=policy.value_head,
        )
        self._learner = PolicyLearner(
            policy,
            make_method(config.method),
            algorithm=config.algorithm,
            optim=config.actor.optim,
            global_batch=config.actor.global_batch_size,
            micro_batch=config.actor.micro_batch_size,
            device=device,
        )
        return load_training_state(self._learner, resume_from) if resume_from else 0

    def begin_task(self, task: TaskContext) -> None:
        """Let the method prepare for a task."""
        self._learner.folder = task.folder
        self._learner.method.on_task_start(replace(task, device=self._learner.device), self._learner.policy)

    @traced("gather weights")
    def weights(self) -> dict[str, NDArray[np.float32]] | None:
        """Full trainable tensors, from rank 0."""
        is_first = self._rank == 0
        tensors = gather_trainable(self._learner.policy.module, keep=is_first)
        return tensors if is_first else None

    @traced("update")
    def update(
        self, batches: "Sequence[ray.ObjectRef[Any]]", seed: int, epoch: int, keep: bool = False
    ) -> dict[str, float]:
        """One epoch of updates from the rollout workers' collections, none where the method does not collect; metrics
        are those of all ranks. epoch: how many there were before. keep: ``end_task`` follows, with the same experience.
        """
        self._fraction = 0.0
        experience = self._experience(batches)
        self._kept = experience if keep else None
        self._report(0.0)
        version = epoch if batches else None
        return self._learner.update(experience, seed=seed, version=version, report=self._report)

    @traced("read samples")
    def _experience(self, batches: "Sequence[ray.ObjectRef[Any]]") -> RolloutBatch:
        """What was collected, or where nothing was, what the method has to learn from."""
        return RolloutBatch.cat(ray.get(list(batches))) if batches else self._learner.method.experience()

    @ray.method(concurrency_group="watch")
    def progress(self) -> float:
        """Share of the running update that is done."""
        return self._fraction

    def _report(self, fraction: float) -> None:
        """An optimizer step ends, where any is done, and the next begins."""
        if fraction:
            RECORDER.add("optimizer step", self._reported_ns)
        self._fraction, self._reported_ns = fraction, time.time_ns()

    @traced("end task")
    def end_task(self, task: TaskContext) -> None:
        """Let the method take stock of a learnt task, of which the last update kept its experience."""
        assert self._kept is not None
        task = replace(task, device=self._learner.device)
        self._learner.method.on_task_end(task, self._learner.policy, self._kept)
        self._kept = None

    @traced("save")
    def save(self, folder: Path, epoch: int) -> None:
        """Write adapter and training state into ``folder``."""
        save_actor(self._learner, folder, epoch=epoch)

    def close(self) -> None:
        """Leave the group."""
        leave_group()
