"""The document's name for ``rlinf.custom.replay.dataset``, which nothing of ours imports from here."""

from rlinf.custom.replay.dataset import (
    Demonstration,
    DemonstrationRef,
    as_rollouts,
    find_demonstrations,
    read_demonstration,
)

__all__ = ["Demonstration", "DemonstrationRef", "as_rollouts", "find_demonstrations", "read_demonstration"]
