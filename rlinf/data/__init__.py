"""What flows between environments, policies and learners: frozen dataclasses that check their shapes once, when built.

Shape suffixes used throughout the project: ``B`` environments or samples in a batch, ``S`` chunk samples of a rollout,
``E`` episodes, ``G`` groups, ``N`` rollouts per group or images per sample, ``C`` actions per chunk, ``A`` action
dimensions, ``V`` action bins, ``H W`` pixels.
"""

from rlinf.data.collection import Collected, CollectRequest
from rlinf.data.episode import EpisodePlan, EpisodeResult
from rlinf.data.frames import JoinedFrames
from rlinf.data.observation import EnvStep, Observation
from rlinf.data.rollout import RolloutBatch

__all__ = [
    "CollectRequest",
    "Collected",
    "EnvStep",
    "EpisodePlan",
    "EpisodeResult",
    "JoinedFrames",
    "Observation",
    "RolloutBatch",
]
