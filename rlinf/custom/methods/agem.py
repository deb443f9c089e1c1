"""Averaged gradient episodic memory."""

import logging
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from rlinf.config.schema import AGEMConfig
from rlinf.custom.methods.base import ContinualMethod, TaskContext
from rlinf.custom.methods.parts.chunks import ActionChunks
from rlinf.custom.methods.parts.gradients import add_to_gradients, inner_product, loss_gradient
from rlinf.custom.methods.parts.state import check_tasks, read_earlier
from rlinf.data import RolloutBatch
from rlinf.models import Policy
from rlinf.models.lora import trainable_parameters

log = logging.getLogger(__name__)


class AGEM(ContinualMethod):
    """Keep chunks of each task's successful rollouts; where an update would make the earlier ones less likely, project
    its gradient onto the directions that do not (A-GEM, arXiv:1812.00420)."""

    def __init__(self, config: AGEMConfig) -> None:
        self.config = config
        self.memory: ActionChunks | None = None
        self.tasks: tuple[int, ...] = ()
        self.num_draws = 0

    def check(self, task: TaskContext) -> None:
        check_tasks(task, method="agem")

    def on_task_start(self, task: TaskContext, policy: Policy) -> None:
        self.check(task)
        self.task = task
        stored, self.tasks = read_earlier(task)
        self.memory = ActionChunks.from_tensors(stored) if "frames" in stored else None

    @torch.no_grad()
    def on_backward(self, policy: Policy) -> None:
        """Remove the part of the gradient that opposes the memory's. Collective; elementwise but for two sums."""
        if self.memory is None:
            return
        parameters = trainable_parameters(policy.module)
        current = {name: p.grad for name, p in parameters.items() if p.grad is not None}
        reference = self._memory_gradient(policy, self.memory)
        for name, parameter in parameters.items():  # which the memory's have used up
            parameter.grad = current.get(name)
        overlap = inner_product(current, reference)
        if overlap < 0:
            share = (overlap / inner_product(reference, reference)).item()
            add_to_gradients(policy, {name: -share * gradient for name, gradient in reference.items()})

    def _memory_gradient(self, policy: Policy, memory: ActionChunks) -> dict[str, Tensor]:
        rng = np.random.default_rng([self.task.seed, *self.task.task_ids, self.num_draws])
        self.num_draws += 1
        drawn = rng.permutation(len(memory))[: self.config.batch_size]
        return loss_gradient(policy, memory.select(drawn), self.task)

    def on_task_end(self, task: TaskContext, policy: Policy, rollouts: RolloutBatch) -> None:
        """Remember chunks of episodes that succeeded; none where none did."""
        succeeded_E = np.array([episode.success_once for episode in rollouts.episodes], np.bool_)
        positions = np.flatnonzero(succeeded_E[rollouts.episode_S])
        if len(positions) == 0:
            log.warning("no rollout of task %s succeeded: nothing of it is remembered", task.task_ids)
        else:
            rng = np.random.default_rng([task.seed, *task.task_ids])
            kept = ActionChunks.of(rollouts, np.sort(rng.permutation(positions)[: self.config.memory_per_task]))
            self.memory = ActionChunks.cat([self.memory, kept]) if self.memory else kept
        self.tasks = (*self.tasks, *task.task_ids)

    def state_dict(self) -> dict[str, Tensor]:
        state = {"tasks": torch.tensor(self.tasks, dtype=torch.int64), "num_draws": torch.tensor(self.num_draws)}
        return state | (self.memory.tensors() if self.memory else {})

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on drawing where this run was interrupted; the memory itself is that of the earlier tasks."""
        self.num_draws = int(state["num_draws"])
