"""What the runs of one process share: a Ray cluster and its workers."""

from contextlib import ExitStack

from rlinf.config.schema import Config
from rlinf.models import PolicySource
from rlinf.scheduler.cluster import Cluster, Resources
from rlinf.workers.launch import Workers, shared_settings, start_workers
from rlinf.workers.object_store import object_store_gb


class Session(ExitStack):
    """Context manager: the cluster starts with the first run, and workers are kept from run to run where they fit."""

    def __init__(self) -> None:
        super().__init__()
        self._cluster: Cluster | None = None
        self._workers: Workers | None = None
        self._settings: tuple[object, ...] = ()

    def resources(self, config: Config, source: PolicySource) -> Resources:
        """What the cluster offers; where there is none, or it does not fit, it is started now."""
        store = object_store_gb(config, source, learn=True)
        settings = (*shared_settings(config), store)
        if self._cluster is None or settings != self._settings:
            self.close()
            self._cluster = self.enter_context(Cluster(object_store_gb=store))
            self._workers, self._settings = None, settings
        return self._cluster.resources

    def learning_workers(self, config: Config, source: PolicySource) -> Workers:
        """Workers of a training run on the cluster that ``resources`` found; returns before they are ready."""
        assert self._cluster is not None
        if self._workers is None:
            self._workers = start_workers(config, self._cluster.resources, source=source, learn=True)
        else:
            self._workers.renew(config, source)
        return self._workers
