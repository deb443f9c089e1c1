"""A Ray cluster: an existing one when ``RAY_ADDRESS`` is set, else a local one that ends with us."""

import logging
import os
from dataclasses import dataclass
from types import TracebackType

log = logging.getLogger(__name__)

_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_COLOR_PREFIX": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # A busy simulator process must not be mistaken for a memory leak on small machines.
    "RAY_memory_monitor_refresh_ms": "0",
}
# The name is Ray's. On Linux too, a cluster of our own then listens on the loopback interface and nowhere else.
_ALONE = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}


def configure_ray() -> None:
    """Set what Ray reads from the environment, some of it while it is imported; what the user set is kept."""
    wanted = _QUIET if os.environ.get("RAY_ADDRESS") else _QUIET | _ALONE
    os.environ.update({key: os.environ.get(key, value) for key, value in wanted.items()})


@dataclass(frozen=True)
class Resources:
    """What the cluster offers."""

    num_cpus: int
    num_gpus: int
    num_nodes: int


class Cluster:
    """Context manager around ``ray.init``; on leaving, disconnects, and ends the cluster if we started it."""

    def __init__(self, *, object_store_gb: float) -> None:
        self._object_store = int(object_store_gb * 2**30)

    def __enter__(self) -> "Cluster":
        configure_ray()
        import ray

        # Ray announces at every start that token authentication, its default, is on.
        logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)
        address = os.environ.get("RAY_ADDRESS")
        if address:
            ray.init(address=address, log_to_driver=True, logging_level=logging.WARNING)
        else:
            ray.init(
                num_cpus=os.cpu_count(),
                object_store_memory=self._object_store,
                include_dashboard=False,
                log_to_driver=True,
                logging_level=logging.WARNING,
                _node_ip_address="127.0.0.1",
            )
        found = self.resources
        where = f"cluster at {address}" if address else "local Ray"
        log.info("%s: %d node(s), %d CPUs, %d GPUs", where, found.num_nodes, found.num_cpus, found.num_gpus)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        import ray

        ray.shutdown()

    @property
    def resources(self) -> Resources:
        import ray

        total = ray.cluster_resources()
        nodes = [node for node in ray.nodes() if node["Alive"]]
        return Resources(int(total.get("CPU", 0)), int(total.get("GPU", 0)), len(nodes))
