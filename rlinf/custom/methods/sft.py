"""Supervised fine-tuning instead of reinforcement learning: the control that tells what learning on-policy gives."""


from rlinf.config.schema import MethodConfig
from rlinf.custom.methods.base import ContinualMethod, TaskContext
from rlinf.custom.methods.parts.replay import replayable
from rlinf.custom.replay.dataset import (
    DemonstrationRef,
    as_rollouts,
    find_demonstrations,
    read_demonstration,
    read_options,
)
from rlinf.data import RolloutBatch
from rlinf.models import Policy


class SupervisedFineTuning(ContinualMethod):
    """Raise the likelihood of actions that led to success (behaviour cloning): the expert's, on every frame of its
    demonstrations of the task, or with ``method.sft.source=own`` those of the policy's own successful episodes
    (rejection sampling). The loss is ``algorithm.loss_type=sft``, which ``method=sft`` chooses."""

    def __init__(self, config: MethodConfig) -> None:
        self.config = config
        self.collects = config.sft.source == "own"
        self._demonstrations: RolloutBatch | None = None

    def check(self, task: TaskContext) -> None:
        """Demonstrations of the task are there."""
        if not self.collects:
            self._find(task)

    def on_task_start(self, task: TaskContext, policy: Policy) -> None:
        """Read them."""
        if self.collects:
            return
        refs = self._find(task)
        demos = [read_demonstration(ref, cameras=task.cameras) for ref in refs]
        self._demonstrations = as_rollouts(refs, demos, replayable(policy), suite=task.suite, nearest=False)

    def experience(self) -> RolloutBatch:
        """The demonstrations, as episodes of the expert of which every frame was looked at."""
        assert self._demonstrations is not None
        return self._demonstrations

    def _find(self, task: TaskContext) -> list[DemonstrationRef]:
        read_options(task.cameras)  # refuses others
        return find_demonstrations(self.config.replay, suite=task.suite, task_ids=task.task_ids)
