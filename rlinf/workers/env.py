"""One simulator process."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rlinf.config.schema import EnvConfig, EnvSplitConfig
from rlinf.data import EnvStep, EpisodePlan, Observation
from rlinf.envs import make_env


@dataclass(frozen=True)
class PlayRequest:
    """Episodes to start and chunks to carry out, in different environments of one process.

    actions_BCA: float32, for ``step_ids``; those in ``film`` keep video frames.
    """

    start: tuple[EpisodePlan, ...]
    start_ids: tuple[int, ...]
    actions_BCA: NDArray[np.float32] | None
    step_ids: tuple[int, ...]
    film: tuple[int, ...] = ()


@dataclass(frozen=True)
class PlayResult:
    """First observations of started episodes, and the outcome of the chunks."""

    started: Observation | None
    step: EnvStep | None


class EnvWorker:
    """Plays episodes on request; holds ``env.num_envs_per_worker`` environments."""

    def __init__(self, config: EnvConfig, drawing_gpu: int | None) -> None:
        self._env = make_env(config, drawing_gpu)

    def configure(self, split: EnvSplitConfig) -> None:
        """Rules for the episodes that start from now on."""
        self._env.configure(split)

    def play(self, request: PlayRequest) -> PlayResult:
        """Start episodes and carry out chunks."""
        step = None
        if request.actions_BCA is not None:
            step = self._env.step_chunk(request.actions_BCA, request.step_ids, film=request.film)
        started: Observation | None = None
        if request.start:
            started = self._env.reset(request.start, request.start_ids)
        return PlayResult(started, step)

    def close(self) -> None:
        """Free the simulator."""
        self._env.close()


def split_lanes(num_envs: int, num_lanes: int) -> list[Sequence[int]]:
    """Divide environments into ``num_lanes`` groups that take turns between simulator and policy."""
    size = num_envs // num_lanes
    return [range(lane * size, (lane + 1) * size) for lane in range(num_lanes)]
