"""The document's name for ``rlinf.workers.logits``, which nothing of ours imports from here."""

from rlinf.workers.logits import LogitsPrecomputeWorker

__all__ = ["LogitsPrecomputeWorker"]
