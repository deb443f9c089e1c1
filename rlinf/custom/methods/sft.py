"""Supervised fine-tuning instead of reinforcement learning: the control that tells what learning on-policy gives."""


import numpy as np

from rlinf.config.schema import MethodConfig
from rlinf.custom.methods.base import ContinualMethod, TaskContext
from rlinf.custom.methods.parts.replay import replayable
from rlinf.custom.replay.dataset import (
    DemonstrationRef,
    LiberoTrajectoryDataset,
    find_demonstrations,
    read_demonstration,
    read_options,
)
from rlinf.data import EpisodePlan, EpisodeResult, RolloutBatch
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
        refs, model = self._find(task), replayable(policy)
        demos = [read_demonstration(ref, cameras=task.cameras) for ref in refs]
        dataset = LiberoTrajectoryDataset.build(refs, demos, model, nearest_bins=False)
        self._demonstrations = _as_rollouts(dataset, refs, model.chunk_shape, suite=task.suite)

    def experience(self) -> RolloutBatch:
        """The demonstrations, as episodes of the expert of which every frame was looked at."""
        assert self._demonstrations is not None
        return self._demonstrations

    def _find(self, task: TaskContext) -> list[DemonstrationRef]:
        read_options(task.cameras)  # refuses others
        return find_demonstrations(self.config.replay, suite=task.suite, task_ids=task.task_ids)


def _as_rollouts(
    dataset: LiberoTrajectoryDataset, refs: list[DemonstrationRef], chunk_shape: tuple[int, int], *, suite: str
) -> RolloutBatch:
    """Actions past a demonstration's end count as not carried out."""
    num_frames, num_actions = len(dataset), chunk_shape[0]
    bins_FCA = dataset.bins_FT.numpy().reshape(num_frames, *chunk_shape)
    length_E = np.bincount(dataset.demo_F, minlength=len(refs))
    step_F = np.arange(num_frames) - (np.cumsum(length_E) - length_E)[dataset.demo_F]
    left_F = length_E[dataset.demo_F] - step_F
    languages = tuple(dict.fromkeys(dataset.languages))
    number_E = np.array([languages.index(language) for language in dataset.languages], np.int64)
    return RolloutBatch(
        frames_SNHWC=dataset.frames_FNHWC.numpy(),
        languages=languages,
        language_S=number_E[dataset.demo_F],
        bins_SCA=bins_FCA,
        logprobs_SCA=np.zeros(bins_FCA.shape, np.float32),  # the expert's are not known; this loss has no ratios
        executed_SC=np.arange(num_actions) < left_F[:, None],
        rewards_SC=np.zeros(bins_FCA.shape[:2], np.float32),
        episode_S=dataset.demo_F.astype(np.int64),
        episodes=tuple(
            EpisodeResult(EpisodePlan(number, number, suite, ref.task_id, 0, 0), True, True, 1.0, ref.num_steps)
            for number, ref in enumerate(refs)
        ),
    )
