"""What a simulator must offer to the training loop."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from rlinf.config.schema import EnvSplitConfig
from rlinf.data import EnvStep, EpisodePlan, Observation

VIDEO_STRIDE = 2
"""Simulator steps between two frames of a video."""


@dataclass(frozen=True)
class TaskInfo:
    """A task of a suite and how many initial states it offers; ``fault``: why it cannot be played."""

    task_id: int
    name: str
    language: str
    num_init_states: int
    fault: str | None = None


class VectorEnv(Protocol):
    """``num_envs`` episodes side by side in one process; each call names the environments it is about."""

    num_envs: int

    def configure(self, split: EnvSplitConfig) -> None:
        """Set step limit and termination rule for the episodes that start from now on."""

    def reset(self, plans: Sequence[EpisodePlan], env_ids: Sequence[int]) -> Observation:
        """Start ``plans[i]`` in environment ``env_ids[i]``."""

    def step_chunk(
        self, actions_BCA: NDArray[np.float32], env_ids: Sequence[int], *, video_ids: Sequence[int]
    ) -> EnvStep:
        """Carry out one chunk of actions in each named environment, and keep video frames of ``video_ids``."""

    def close(self) -> None:
        """Free the simulator."""
