"""Which episodes to play, and what became of them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class EpisodePlan:
    """One episode to play.

    episode: its number within the collection; also keys its random numbers, so that a result does not depend on which
        worker played it or what else was in the batch.
    group: episodes of one group start from the same state (GRPO); ``-1`` where groups mean nothing.
    """

    episode: int
    group: int
    suite: str
    task_id: int
    init_index: int
    seed: int


@dataclass(frozen=True)
class EpisodeResult:
    """What became of an episode: ``total_reward`` is the sum of its rewards, ``num_steps`` counts simulator actions.

    policy_version: epochs of updates that the weights had had which acted, all through the episode.
    """

    plan: EpisodePlan
    success_once: bool
    success_at_end: bool
    total_reward: float
    num_steps: int
    policy_version: int = 0
