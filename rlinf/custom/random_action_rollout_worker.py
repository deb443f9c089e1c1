"""The document's name for ``rlinf.workers.random_action``, which nothing of ours imports from here."""

from rlinf.workers.random_action import RandomActionPolicy, RandomActionRolloutWorker

__all__ = ["RandomActionPolicy", "RandomActionRolloutWorker"]
