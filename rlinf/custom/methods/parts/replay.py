"""What methods that replay demonstrations share: finding, reading and drawing them."""

import logging
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlinf.config.errors import ConfigError
from rlinf.config.schema import ReplayConfig
from rlinf.custom.methods.base import ContinualMethod, TaskContext
from rlinf.custom.methods.parts.chunks import ActionChunks
from rlinf.custom.replay.dataset import (
    Demonstration,
    DemonstrationRef,
    as_rollouts,
    find_demonstrations,
    read_demonstration,
    read_options,
)
from rlinf.data import RolloutBatch
from rlinf.models import Policy, PolicyInputs, ReplayablePolicy
from rlinf.models.shards import rank_and_size

log = logging.getLogger(__name__)


class DemonstrationReplay(ContinualMethod):
    """Adds a loss on random frames of demonstrations to every micro-batch. Subclasses say which."""

    reads_parameters = False

    def __init__(self, config: ReplayConfig) -> None:
        self.config = config
        self.demonstrations: RolloutBatch | None = None
        self._task: TaskContext | None = None
        self._draws = 0

    def check(self, task: TaskContext) -> None:
        """Demonstrations of every replayed task are there."""
        self.find(task)

    def find(self, task: TaskContext) -> list[DemonstrationRef]:
        """The demonstrations to replay; none before a first task where only seen tasks are replayed."""
        read_options(task.cameras)  # refuses others
        seen = None if self.config.tasks == "all" else task.learnt_before
        return find_demonstrations(self.config, suite=task.suite, task_ids=seen)

    def on_task_start(self, task: TaskContext, policy: Policy) -> None:
        """Read the demonstrations."""
        refs, model = self.find(task), replayable(policy)
        self._task = task
        self.demonstrations = None
        if not refs:
            log.info("replay: no task was learnt before, nothing to replay")
            return
        demos = [read_demonstration(ref, cameras=task.cameras) for ref in refs]
        self.demonstrations = as_rollouts(refs, demos, model, suite=task.suite, nearest=self.nearest)
        self.on_read(refs, demos, model)

    def on_read(
        self, refs: Sequence[DemonstrationRef], demos: Sequence[Demonstration], policy: ReplayablePolicy
    ) -> None:
        """After the demonstrations were read, one after another as their samples are."""

    def loss_terms(self, policy: Policy) -> dict[str, Tensor]:
        """``coeff`` times the loss on samples that are drawn anew in every micro-batch."""
        if self.demonstrations is None:
            return {}
        assert self._task is not None
        drawn, device = self.draw(), self._task.device
        samples = ActionChunks.of(self.demonstrations, drawn)
        bins_BT = samples.bins_MCA.flatten(1).to(device)
        return {"replay": self.config.coeff * self.loss(replayable(policy), samples.inputs(device), bins_BT, drawn)}

    def loss(
        self, policy: ReplayablePolicy, inputs: PolicyInputs, bins_BT: Tensor, drawn_B: NDArray[np.int64]
    ) -> Tensor:
        """The loss on some samples: what was seen, the bins of the expert's next chunk, and their positions."""
        raise NotImplementedError

    def draw(self) -> NDArray[np.int64]:
        """This rank's share of random frames: others in every micro-batch and task, the same when a run is resumed.
        Ranks that have as many micro-batches as one would have draw together what that one would."""
        assert self.demonstrations is not None
        assert self._task is not None
        rank, world_size = rank_and_size()
        size = self.config.batch_size or self._task.micro_batch
        rng = np.random.default_rng([self._task.seed, self._draws, *self._task.task_ids])
        self._draws += 1
        return rng.integers(0, self.demonstrations.num_samples, size * world_size)[rank * size : (rank + 1) * size]

    @property
    def nearest(self) -> bool:
        """Whether an expert's action counts as the bin of the nearest centre."""
        return self.config.targets == "nearest"

    def state_dict(self) -> dict[str, Tensor]:
        """How many batches were drawn."""
        return {"replay_draws": torch.tensor(self._draws)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on drawing where an interrupted run stopped."""
        self._draws = int(state["replay_draws"])


def replayable(policy: Policy) -> ReplayablePolicy:
    """The same policy, known to have what replay needs.

    Raises:
        ConfigError: it has not.
    """
    if not isinstance(policy, ReplayablePolicy):
        raise ConfigError(
            f"methods er, der and sft need a policy with raw logits and a base model, which {type(policy).__name__} "
            "does not offer (see ReplayablePolicy in rlinf/models/policy.py); choose another method or policy"
        )
    return policy
