"""One simulator process."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rlinf.config.schema import EnvConfig, EnvSplitConfig
from rlinf.data import EnvStep, EpisodePlan, Observation
from rlinf.envs import make_env
from rlinf.reporting.trace import RECORDER, Traced


@dataclass(frozen=True)
class PlayRequest:
    """Episodes to start and chunks to carry out, in different environments of one process.

    actions_BCA: float32, for ``step_ids``; those in ``video_ids`` keep video frames.
    """

    start: tuple[EpisodePlan, ...]
    start_ids: tuple[int, ...]
    actions_BCA: NDArray[np.float32] | None
    step_ids: tuple[int, ...]
    video_ids: tuple[int, ...] = ()


class EnvWorker(Traced):
    """Plays episodes on request; holds ``env.num_envs_per_worker`` environments."""

    def __init__(self, config: EnvConfig, drawing_gpu: int | None) -> None:
        self._env = make_env(config, drawing_gpu)

    def configure(self, split: EnvSplitConfig) -> None:
        """Rules for the episodes that start from now on."""
        self._env.configure(split)

    def play(self, request: PlayRequest) -> tuple[Observation | None, EnvStep | None]:
        """First observations of the started episodes, and what came of the chunks."""
        step = None
        if request.actions_BCA is not None:
            with RECORDER.span("step"):
                step = self._env.step_chunk(request.actions_BCA, request.step_ids, video_ids=request.video_ids)
        if not request.start:
            return None, step
        with RECORDER.span("reset"):
            return self._env.reset(request.start, request.start_ids), step

    def close(self) -> None:
        """Free the simulator."""
        self._env.close()
