"""What an environment shows and what a chunk of actions did to it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlinf.data.shapes import check_array


@dataclass(frozen=True)
class Observation:
    """What the policy sees of ``B`` environments.

    images_BNHWC: uint8 camera images as the policy expects them (LIBERO: rotated by 180 degrees).
    proprio_BP: float32 proprioception (LIBERO: end-effector position, axis-angle, two finger positions).
    languages: the instruction of each environment.
    """

    images_BNHWC: NDArray[np.uint8]
    proprio_BP: NDArray[np.float32]
    languages: tuple[str, ...]

    def __post_init__(self) -> None:
        check_array("images_BNHWC", self.images_BNHWC, (len(self.languages), None, None, None, 3), np.uint8)
        check_array("proprio_BP", self.proprio_BP, (len(self.languages), None), np.float32)

    def __len__(self) -> int:
        return len(self.languages)

    @staticmethod
    def cat(parts: Sequence["Observation"]) -> "Observation":
        """Join observations, of which there must be one, along the batch; a copy, which torch may write to."""
        return Observation(
            images_BNHWC=np.concatenate([part.images_BNHWC for part in parts]),
            proprio_BP=np.concatenate([part.proprio_BP for part in parts]),
            languages=tuple(language for part in parts for language in part.languages),
        )

    def select(self, rows: NDArray[np.int64]) -> "Observation":
        """Some environments, given in ascending order; nothing is copied where it is all."""
        if len(rows) == len(self):
            return self
        return Observation(self.images_BNHWC[rows], self.proprio_BP[rows], tuple(self.languages[row] for row in rows))


@dataclass(frozen=True)
class EnvStep:
    """What one chunk of ``C`` actions did to ``B`` environments.

    observation: after the chunk.
    rewards_BC: float32, zero where ``executed_BC`` is false.
    executed_BC: bool, which actions of the chunk were carried out; an episode that ends inside a chunk leaves the rest.
    success_BC: bool, the task's predicate after each action.
    terminated_B, truncated_B: bool, the episode ended by success or by its step limit.
    video_frames: (H, W, 3) uint8, by environment, of those that a video is made of.
    """

    observation: Observation
    rewards_BC: NDArray[np.float32]
    executed_BC: NDArray[np.bool_]
    success_BC: NDArray[np.bool_]
    terminated_B: NDArray[np.bool_]
    truncated_B: NDArray[np.bool_]
    video_frames: Mapping[int, tuple[NDArray[np.uint8], ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        num_envs = len(self.observation)
        for name in ("executed_BC", "success_BC"):
            check_array(name, getattr(self, name), (num_envs, None), np.bool_)
        check_array("rewards_BC", self.rewards_BC, self.executed_BC.shape, np.float32)
        for name in ("terminated_B", "truncated_B"):
            array: NDArray[Any] = getattr(self, name)
            check_array(name, array, (num_envs,), np.bool_)

    @property
    def done_B(self) -> NDArray[np.bool_]:
        """Episodes that are over."""
        return self.terminated_B | self.truncated_B
