"""What every vector environment of this package shares: its data, its spaces and its checks of arguments.

B environments, C actions per chunk, A action dimensions, N cameras, P proprioception, H and W pixels.
"""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from libero_runtime.kernel import ACTION_DIM
from libero_runtime.paths import LOOKS
from libero_runtime.sim.state import PROPRIO_DIM, SimulationError
from libero_runtime.suites import TaskSpec, load_suite

Observation = dict[str, NDArray[Any]]  # as in `VectorFace.observation_space`
ON_FAILURE = ("raise", "freeze")
_MAX_LISTED = 4  # environments named in a message about all


class VectorEnvError(ValueError):
    """A call that does not fit the environments; the message says what was expected and what came."""


def whole_number(value: object, name: str) -> int:
    """An integer of Python's or numpy's; raises for anything that would have to be rounded, and for truth values."""
    try:
        if isinstance(value, bool):
            raise TypeError("a truth value")
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError as error:
        raise VectorEnvError(f"{name} must be a whole number, given {value!r}") from error


@dataclass(frozen=True)
class EpisodeStart:
    """Which episode to begin: a task, one of its 50 published initial states, and the seed of the fixture poses."""

    suite: str
    task_id: int
    init_index: int
    seed: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.suite, str):
            raise VectorEnvError(f"suite of an episode start must be a string, given {self.suite!r}")
        for name in ("task_id", "init_index", "seed"):
            object.__setattr__(self, name, whole_number(getattr(self, name), f"{name} of an episode start"))


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


def check_options(
    *, counts: dict[str, int], cameras: Sequence[str], look: str, num_idle_steps: int, on_failure: str
) -> None:
    """Raise for an option that no environment can have; `counts` must be positive."""
    for name, value in counts.items():
        if value < 1:
            raise VectorEnvError(f"{name}={value} must be at least 1")
    if num_idle_steps < 0:
        raise VectorEnvError(f"num_idle_steps={num_idle_steps} must not be negative")
    if look not in LOOKS:
        raise VectorEnvError(f"look={look!r} must be one of {', '.join(LOOKS)}")
    if on_failure not in ON_FAILURE:
        raise VectorEnvError(f"on_failure={on_failure!r} must be one of {', '.join(ON_FAILURE)}")
    if not cameras or isinstance(cameras, str):
        raise VectorEnvError(f"cameras={cameras!r} must be a non-empty sequence of camera names")


class VectorFace(ABC):
    """Spaces in Gymnasium's vocabulary, and checks of arguments that name what is wrong."""

    render_mode = "rgb_array"

    def __init__(self, *, num_envs: int, cameras: Sequence[str], image_size: int) -> None:
        self.num_envs = num_envs
        self._cameras = tuple(cameras)
        self._image_size = image_size
        self._images_BNHWC = np.zeros((num_envs, len(cameras), image_size, image_size, 3), dtype=np.uint8)
        self._proprio_BP = np.zeros((num_envs, PROPRIO_DIM), dtype=np.float32)

    @abstractmethod
    def describe(self, env_id: int) -> str:
        """An environment with what it is at, for messages."""

    # Gymnasium's vocabulary -------------------------------------------------------------------------------------

    @property
    def metadata(self) -> dict[str, Any]:
        """Autoreset mode and render modes, under Gymnasium's keys."""
        from gymnasium.vector import AutoresetMode

        return {"autoreset_mode": AutoresetMode.DISABLED, "render_modes": ["rgb_array"], "render_fps": 20}

    @property
    def single_action_space(self) -> Any:
        """Of one action (7,): six OSC deltas, and the gripper, -1 open, +1 close."""
        from gymnasium import spaces

        return spaces.Box(-1.0, 1.0, (ACTION_DIM,), np.float32)

    @property
    def single_observation_space(self) -> Any:
        """Of one environment's row of `Frames.observation()`: `images` (N, H, W, 3) and `proprio` (8,)."""
        from gymnasium import spaces

        size = self._image_size
        return spaces.Dict(
            {
                "images": spaces.Box(0, 255, (len(self._cameras), size, size, 3), np.uint8),
                "proprio": spaces.Box(-np.inf, np.inf, (PROPRIO_DIM,), np.float32),
            }
        )

    @property
    def action_space(self) -> Any:
        """Of one action in every environment (B, 7); `step_chunk` takes C of them, (B, C, 7)."""
        from gymnasium.vector.utils import batch_space

        return batch_space(self.single_action_space, self.num_envs)

    @property
    def observation_space(self) -> Any:
        """Of `Frames.observation()` of all environments."""
        from gymnasium.vector.utils import batch_space

        return batch_space(self.single_observation_space, self.num_envs)

    # Checks -----------------------------------------------------------------------------------------------------

    def _check_ids(self, env_ids: Sequence[int] | None) -> list[int]:
        if env_ids is None:
            return list(range(self.num_envs))
        ids = [whole_number(env_id, "each of env_ids") for env_id in env_ids]
        outside = [env_id for env_id in ids if not 0 <= env_id < self.num_envs]
        if outside:
            raise VectorEnvError(f"env_ids {outside} are out of range: there are environments 0 to {self.num_envs - 1}")
        if not ids or len(set(ids)) != len(ids):
            raise VectorEnvError(f"env_ids must be a non-empty list of different environments, given {ids}")
        return ids

    @staticmethod
    def _check_starts(starts: Sequence[EpisodeStart], ids: list[int]) -> None:
        if len(starts) != len(ids):
            raise VectorEnvError(f"expected one start per environment, {len(ids)} in all, given {len(starts)}")
        for env_id, start in zip(ids, starts, strict=True):
            if not isinstance(start, EpisodeStart):
                raise VectorEnvError(f"environment {env_id} needs an EpisodeStart to begin, given {start!r}")

    def _check_actions(self, actions_BCA: NDArray[np.float32], ids: list[int]) -> NDArray[np.float64]:
        num_ids = len(ids)
        expected = f"actions must have shape ({num_ids}, C, {ACTION_DIM}) with C >= 1 for {self._describe_all(ids)}"
        try:
            actions = np.asarray(actions_BCA, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise VectorEnvError(f"{expected}, given what is no array of numbers ({error})") from error
        if actions.ndim != 3 or actions.shape[0] != num_ids or actions.shape[1] < 1 or actions.shape[2] != ACTION_DIM:
            raise VectorEnvError(f"{expected}, given {actions.shape}")
        if not np.isfinite(actions).all():
            first = tuple(int(k) for k in np.argwhere(~np.isfinite(actions))[0])
            raise VectorEnvError(
                f"actions must be finite, given {actions[first]} at index {first} of (B, C, A), which is for "
                f"{self.describe(ids[first[0]])}"
            )
        return actions

    def _describe_all(self, ids: list[int]) -> str:
        """The first few of several environments."""
        listed = ", ".join(self.describe(env_id) for env_id in ids[:_MAX_LISTED])
        return listed if len(ids) <= _MAX_LISTED else f"{listed} and {len(ids) - _MAX_LISTED} more"

    @staticmethod
    def _check_limits(max_steps_B: Sequence[int] | None, num_ids: int, num_actions: int) -> list[int]:
        if max_steps_B is None:
            return [num_actions] * num_ids
        limits = [whole_number(limit, "each of max_steps_B") for limit in max_steps_B]
        if len(limits) != num_ids or min(limits) < 0:
            raise VectorEnvError(
                f"max_steps_B must hold {num_ids} numbers of at least 0, one per environment, given {limits}"
            )
        return [min(limit, num_actions) for limit in limits]
