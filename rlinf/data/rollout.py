"""Experience for the learner: every executed chunk of every episode, without padding."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rlinf.data.episode import EpisodeResult
from rlinf.data.frames import JoinedFrames
from rlinf.data.shapes import check_array


@dataclass(frozen=True)
class RolloutBatch:
    """``S`` chunk samples of ``E`` episodes; an episode that ended early contributes fewer samples.

    frames_SNHWC: uint8 images at the policy's own resolution (what ``Policy.prepare`` keeps of an observation).
        Those of joined collections stay in several arrays: index them by positions.
    languages: the distinct instructions; ``language_S`` (int64) points into them.
    bins_SCA: int64 action bins that were sampled.
    logprobs_SCA: float32 log-probabilities of those bins when they were sampled.
    executed_SC: bool, the loss mask: actions after the end of an episode are not trained on.
    rewards_SC: float32 rewards of each action.
    episode_S: int64 index into ``episodes``; samples of an episode are in order of time.
    values_S: float32 what the value head said before each chunk; None for policies without one.
    """

    frames_SNHWC: NDArray[np.uint8] | JoinedFrames
    languages: tuple[str, ...]
    language_S: NDArray[np.int64]
    bins_SCA: NDArray[np.int64]
    logprobs_SCA: NDArray[np.float32]
    executed_SC: NDArray[np.bool_]
    rewards_SC: NDArray[np.float32]
    episode_S: NDArray[np.int64]
    episodes: tuple[EpisodeResult, ...]
    values_S: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        num_samples, chunk, action_dim = self.bins_SCA.shape
        check_array("frames_SNHWC", self.frames_SNHWC, (num_samples, None, None, None, 3), np.uint8)
        check_array("language_S", self.language_S, (num_samples,), np.int64)
        check_array("bins_SCA", self.bins_SCA, (None, None, None), np.int64)
        check_array("logprobs_SCA", self.logprobs_SCA, (num_samples, chunk, action_dim), np.float32)
        check_array("executed_SC", self.executed_SC, (num_samples, chunk), np.bool_)
        check_array("rewards_SC", self.rewards_SC, (num_samples, chunk), np.float32)
        check_array("episode_S", self.episode_S, (num_samples,), np.int64)
        if self.values_S is not None:
            check_array("values_S", self.values_S, (num_samples,), np.float32)
        if num_samples and int(self.episode_S.max()) >= len(self.episodes):
            raise ValueError(f"episode_S points to {int(self.episode_S.max())} of {len(self.episodes)} episodes")

    @property
    def num_samples(self) -> int:
        return len(self.episode_S)

    @staticmethod
    def cat(parts: Sequence["RolloutBatch"]) -> "RolloutBatch":
        """Join collections; episode and language indices are renumbered, episodes keep the order of ``parts``.

        Images are not copied, and stay alive as long as the result does. There must be a part; all or none have values.
        """
        languages = tuple(dict.fromkeys(language for part in parts for language in part.languages))
        renumber = {language: index for index, language in enumerate(languages)}
        starts = np.cumsum([0, *(len(part.episodes) for part in parts)])
        values = [part.values_S for part in parts if part.values_S is not None]
        return RolloutBatch(
            frames_SNHWC=JoinedFrames(tuple(array for part in parts for array in _arrays(part.frames_SNHWC))),
            languages=languages,
            language_S=np.concatenate(
                [np.array([renumber[name] for name in part.languages], np.int64)[part.language_S] for part in parts]
            ),
            bins_SCA=np.concatenate([part.bins_SCA for part in parts]),
            logprobs_SCA=np.concatenate([part.logprobs_SCA for part in parts]),
            executed_SC=np.concatenate([part.executed_SC for part in parts]),
            rewards_SC=np.concatenate([part.rewards_SC for part in parts]),
            episode_S=np.concatenate([part.episode_S + start for part, start in zip(parts, starts, strict=False)]),
            episodes=tuple(episode for part in parts for episode in part.episodes),
            values_S=np.concatenate(values) if values else None,
        )

    def select(self, keep_S: NDArray[np.int64]) -> "RolloutBatch":
        """The samples at positions ``keep_S``, in that order; episodes stay as they are."""
        return RolloutBatch(
            frames_SNHWC=self.frames_SNHWC[keep_S],
            languages=self.languages,
            language_S=self.language_S[keep_S],
            bins_SCA=self.bins_SCA[keep_S],
            logprobs_SCA=self.logprobs_SCA[keep_S],
            executed_SC=self.executed_SC[keep_S],
            rewards_SC=self.rewards_SC[keep_S],
            episode_S=self.episode_S[keep_S],
            episodes=self.episodes,
            values_S=None if self.values_S is None else self.values_S[keep_S],
        )


def _arrays(frames: NDArray[np.uint8] | JoinedFrames) -> tuple[NDArray[np.uint8], ...]:
    return frames.parts if isinstance(frames, JoinedFrames) else (frames,)
