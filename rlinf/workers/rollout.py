"""Inference: plays episodes in the simulator processes attached to it, as fast as they answer."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray
from ray.actor import ActorHandle

from libero_runtime.cpus import num_cpus
from rlinf.config.schema import Config
from rlinf.custom.methods.parts.weights import other_weights
from rlinf.data import Collected, CollectRequest
from rlinf.engines.distributed import local_device, set_up_torch
from rlinf.engines.fsdp import DTYPES, load_trainable
from rlinf.envs.episodes import EpisodeRecorder
from rlinf.models import Policy, PolicySource, load_policy
from rlinf.models.lora import MergedAdapter
from rlinf.reporting.trace import Traced, traced
from rlinf.workers.collection import Collector
from transformers_openvla_oft.adapters import read_weights, scale_adapter


class RolloutWorker(Traced):
    """Holds one copy of the policy."""

    def __init__(self, config: Config, source: PolicySource) -> None:
        set_up_torch(config.rollout.num_threads or max(1, num_cpus() // 2))
        self._config = config
        self._policy = self.load(config, replace(source, trains=False, cuda_graphs=config.rollout.cuda_graphs))
        self._policy.to(local_device())
        self._lora_scale = 1.0
        self._version = 0
        self._merged = MergedAdapter(self._policy.module) if config.rollout.merge_adapter else None
        self._envs: list[ActorHandle[Any]] = []
        self._recorder = EpisodeRecorder(ray.put)

    def load(self, config: Config, source: PolicySource) -> Policy:
        """The policy that acts, on the CPU."""
        return load_policy(config.actor.model, source, base_dtype=DTYPES[config.rollout.precision])

    def attach(self, envs: "Sequence[ActorHandle[Any]]") -> None:
        """The simulator processes that this worker plays in."""
        self._envs = list(envs)

    @traced("load weights")
    def load_weights(self, tensors: Mapping[str, NDArray[np.float32]], version: int) -> None:
        """Take over the learner's trainable tensors after ``version`` epochs; episodes that they play name it."""
        load_trainable(self._policy.module, dict(tensors))
        self._version = version
        self._refresh()

    def scale(self, factor: float) -> None:
        """Let the adapter count ``factor`` times from now on."""
        if factor != self._lora_scale:
            scale_adapter(self._policy.module, factor)
            self._lora_scale = factor
            self._refresh()

    @ray.method(concurrency_group="watch")
    def progress(self) -> tuple[int, int]:
        """Finished episodes of the running collection, and how many succeeded."""
        return self._recorder.num_done, self._recorder.num_successes

    @contextmanager
    def acting_with(self, adapter: Path | None) -> Iterator[None]:
        """The stored adapter in a folder acts for a while, then the same weights as before; None: they go on."""
        if adapter is None:
            yield
            return
        with other_weights(self._policy.module, read_weights(self._policy.module, adapter)):
            self._refresh()
            yield
        self._refresh()

    @traced("collect")
    def collect(self, request: CollectRequest) -> Collected:
        """Play ``request.plans``; complete episodes only."""
        self.scale(request.lora_scale)
        self._recorder = EpisodeRecorder(ray.put, policy_version=self._version)
        collector = Collector(
            self._policy,
            self._envs,
            request,
            self._recorder,
            num_envs=self._config.env.num_envs_per_worker,
            num_stages=self._config.env.pipeline_stages,
            max_batch=self._config.rollout.max_batch,
            timeout_s=self._config.env.call_timeout_s,
            max_replaced=self._config.runner.max_restarts,
        )
        with self.acting_with(request.adapter):
            return collector.run()

    def _refresh(self) -> None:
        if self._merged is not None:
            self._merged.refresh()
