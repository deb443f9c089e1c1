"""Ray: the cluster, where workers run, and calling groups of them. Nothing here knows a model or a simulator."""

from rlinf.scheduler.cluster import Cluster
from rlinf.scheduler.worker_group import WorkerError, WorkerGroup

__all__ = ["Cluster", "WorkerError", "WorkerGroup"]
