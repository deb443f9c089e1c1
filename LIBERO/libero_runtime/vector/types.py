"""What goes into vector environments and comes out of them.

B environments, C actions per chunk, N cameras, P proprioception, H and W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from libero_runtime.sim.state import SimulationError, View
from libero_runtime.suites import TaskSpec, load_suite

Observation = dict[str, NDArray[Any]]  # as in `BaseVectorEnv.observation_space`


class VectorEnvError(ValueError):
    """A call that does not fit the environments; the message says what was expected and what came."""


@dataclass(frozen=True)
class EpisodeStart:
    """Which episode to begin: a task, one of its 50 published initial states, and the seed of the fixture poses."""

    suite: str
    task_id: int
    init_index: int
    seed: int = 0


@dataclass(frozen=True)
class Frames:
    """Observations of B environments. Where none could be had of an episode all are zero, and the language is empty."""

    images_BNHWC: NDArray[np.uint8]  # rotated by 180 degrees, as policies are trained on
    proprio_BP: NDArray[np.float32]  # end-effector position 3, axis-angle 3, finger positions 2
    languages: tuple[str, ...]
    failures_B: tuple[str | None, ...]  # why an episode cannot go on, or could not begin; else None

    def observation(self) -> Observation:
        """The arrays under Gymnasium's keys: when of all environments, a member of their `observation_space`."""
        return {"images": self.images_BNHWC, "proprio": self.proprio_BP}


@dataclass(frozen=True)
class ChunkResult:
    """What came of one chunk of actions."""

    frames: Frames  # after the chunk
    success_BC: NDArray[np.bool_]  # goal predicate after each action; actions not simulated repeat the last value
    num_steps_B: NDArray[np.int64]  # actions simulated
    recorded: dict[int, tuple[NDArray[np.uint8], ...]]  # (H, W, 3) frames by environment, of those asked for

    @property
    def failures_B(self) -> tuple[str | None, ...]:
        """Why an episode cannot go on (MuJoCo's state went bad, its worker died), else None."""
        return self.frames.failures_B


@dataclass(frozen=True)
class Job:
    """One environment's share of a chunk."""

    actions_CA: NDArray[np.float64]  # at least one
    record_every: int


@dataclass(frozen=True)
class Outcome:
    """What came of a start, or of a job, in one environment."""

    view: View | None  # the last one; None after a failure
    success: list[bool]  # goal predicate at the start, or after each simulated action
    recorded: list[NDArray[np.uint8]] = field(default_factory=list)  # (H, W, 3)
    failure: str | None = None  # why there is no such episode, or why, left as it was before the job, it cannot go on


class StartError(VectorEnvError):
    """Episodes that could not begin (all are named), in a call of `reset` whose other episodes have begun."""

    def __init__(self, message: str, frames: Frames) -> None:
        super().__init__(message)
        self.frames = frames  # of all environments of the call, as `reset` would have returned them

    def __reduce__(self) -> tuple[type[StartError], tuple[str, Frames]]:
        return type(self), (str(self), self.frames)


class ChunkError(SimulationError):
    """Episodes that could not go on (all are named), in a chunk that the others have finished."""

    def __init__(self, message: str, result: ChunkResult) -> None:
        super().__init__(message)
        self.result = result  # of all environments of the call, as `step_chunk` would have returned it

    def __reduce__(self) -> tuple[type[ChunkError], tuple[str, ChunkResult]]:
        return type(self), (str(self), self.result)


def task_of(start: EpisodeStart) -> TaskSpec:
    """The task of an episode."""
    return load_suite(start.suite).task(start.task_id)
