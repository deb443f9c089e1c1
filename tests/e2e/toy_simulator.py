"""A simulator process of toy episodes, which imports no torch: processes start in a tenth of the time."""

import os
import time

import numpy as np

from rlinf.config.schema import EnvSplitConfig
from rlinf.data import EnvStep, EpisodePlan, Observation

NUM_ACTIONS = 2


class Simulator:
    """Episode ``e`` ends after ``1 + e % 3`` chunks; its image says which episode and which chunk it shows."""

    _seconds = 0.0
    _split: EnvSplitConfig | None = None

    def __init__(self, size: int = 32) -> None:
        self._size = size
        self._chunk_of: dict[int, int] = {}
        self._plan_of: dict[int, EpisodePlan] = {}

    def pid(self) -> int:
        return os.getpid()

    def begin(self, seconds: float) -> None:
        """Forget all episodes; from now on a call takes so long."""
        self._seconds = seconds
        self._chunk_of.clear()
        self._plan_of.clear()

    def configure(self, split: EnvSplitConfig) -> None:
        self._split = split

    def play(self, request) -> tuple[Observation | None, EnvStep | None]:
        assert self._split is not None, "told the rules before anything is played"
        time.sleep(self._seconds)
        step = None
        if request.step_ids:
            for env_id in request.step_ids:
                self._chunk_of[env_id] += 1
            over_B = np.array([self._chunk_of[e] > self._plan_of[e].episode % 3 for e in request.step_ids])
            each = (len(over_B), NUM_ACTIONS)
            step = EnvStep(
                observation=self._seen(request.step_ids),
                rewards_BC=request.actions_BCA[..., 0],
                executed_BC=np.ones(each, bool),
                success_BC=np.repeat(over_B[:, None], NUM_ACTIONS, axis=1),
                terminated_B=over_B,
                truncated_B=np.zeros_like(over_B),
            )
        for env_id, plan in zip(request.start_ids, request.start, strict=True):
            self._plan_of[env_id], self._chunk_of[env_id] = plan, 0
        return self._seen(request.start_ids) if request.start else None, step

    def _seen(self, env_ids: tuple[int, ...]) -> Observation:
        images = np.zeros((len(env_ids), 1, self._size, self._size, 3), np.uint8)
        for row, env_id in enumerate(env_ids):
            images[row, ..., 0], images[row, ..., 1] = self._plan_of[env_id].episode, self._chunk_of[env_id]
        return Observation(images, np.zeros((len(env_ids), 8), np.float32), ("lift",) * len(env_ids))
