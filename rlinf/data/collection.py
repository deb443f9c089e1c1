"""What a collection of episodes is asked for, and what comes of it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rlinf.config.schema import EnvSplitConfig
from rlinf.data.episode import EpisodePlan, EpisodeResult

if TYPE_CHECKING:
    import ray


@dataclass(frozen=True)
class CollectRequest:
    """Episodes to play.

    stream: seeds the action noise together with an episode's number and the chunk's position in it, and nothing else.
    keep_samples: keep experience for the learner (training) or results only (evaluation).
    video_episodes: numbers of episodes whose frames are kept for a video.
    lora_scale: factor on the adapter; training always uses 1.
    adapter: folder of the one that acts; None: the policy's own.
    """

    plans: tuple[EpisodePlan, ...]
    split: EnvSplitConfig
    temperature: float
    stream: tuple[int, ...]
    keep_samples: bool
    video_episodes: frozenset[int] = frozenset()
    lora_scale: float = 1.0
    adapter: Path | None = None


@dataclass(frozen=True)
class Collected:
    """Outcome of a collection; ``batches`` refer to a ``RolloutBatch`` for each episode in the object store, in their
    order.

    inference_s: while the policy had something to act on; waiting_s: while it had not. Of several workers' collections
        together, the longest.
    """

    results: tuple[EpisodeResult, ...]
    batches: "tuple[ray.ObjectRef[Any], ...]"
    videos: tuple[tuple[EpisodeResult, tuple[NDArray[np.uint8], ...]], ...]
    inference_s: float
    waiting_s: float
    num_chunks: int
    num_replaced: int = 0
    """Simulator processes that died or hung, and were replaced."""

    @staticmethod
    def cat(parts: Sequence["Collected"]) -> "Collected":
        """Join what workers collected at the same time."""
        return Collected(
            results=tuple(result for part in parts for result in part.results),
            batches=tuple(batch for part in parts for batch in part.batches),
            videos=tuple(video for part in parts for video in part.videos),
            inference_s=max(part.inference_s for part in parts),
            waiting_s=max(part.waiting_s for part in parts),
            num_chunks=sum(part.num_chunks for part in parts),
            num_replaced=sum(part.num_replaced for part in parts),
        )

    def then(self, later: "Collected") -> "Collected":
        """Join what was collected one after the other."""
        joined = Collected.cat([self, later])
        return replace(
            joined,
            inference_s=self.inference_s + later.inference_s,
            waiting_s=self.waiting_s + later.waiting_s,
        )

    def num_groups_within(self, lower: float, upper: float) -> int:
        """How many groups have a mean return in these bounds."""
        returns: dict[int, list[float]] = {}
        for result in self.results:
            returns.setdefault(result.plan.group, []).append(result.total_reward)
        return sum(lower <= sum(group) / len(group) <= upper for group in returns.values())

    @property
    def success_rate(self) -> float:
        """Share of episodes that succeeded at any time."""
        return sum(result.success_once for result in self.results) / len(self.results)

    def metrics(self) -> dict[str, float]:
        """Averages over the episodes, and where the time went."""
        count = len(self.results)
        return {
            "time/inference": self.inference_s,
            "time/waiting_for_simulator": self.waiting_s,
            "rollout/num_steps": float(sum(result.num_steps for result in self.results)),
            "rollout/num_chunks": float(self.num_chunks),
            "rollout/success_rate": self.success_rate,
            "rollout/return": sum(result.total_reward for result in self.results) / count,
            "rollout/episode_len": sum(result.num_steps for result in self.results) / count,
            "rollout/num_episodes": float(count),
            "rollout/num_replaced_simulators": float(self.num_replaced),
        }
