"""What Ray reads from the environment. Imports nothing that may not be installed."""

import os

_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_DEDUP_LOGS": "0",
    "RAY_COLOR_PREFIX": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # A busy simulator process must not be mistaken for a memory leak on small machines.
    "RAY_memory_monitor_refresh_ms": "0",
}
_ALONE = {
    # The name is Ray's. On Linux too, a cluster of our own then listens on the loopback interface and nowhere else.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    # Our actors bring environment variables, so that the idle process that Ray starts for each core would stay idle: on
    # 32 cores a GiB and several hundred threads, with fifteen runs side by side more threads than Linux allows.
    "RAY_prestart_worker_first_driver": "0",
}
VARIABLE = "RAY_ADDRESS"


def named_cluster() -> str | None:
    """``RAY_ADDRESS``; None where a cluster of our own is wanted, for which Ray's word is "local"."""
    address = os.environ.get(VARIABLE, "").strip()
    return None if address in ("", "local") else address


def configure_ray() -> None:
    """Set what Ray reads from the environment, some of it while it is imported; what the user set is kept."""
    wanted = _QUIET if named_cluster() else _QUIET | _ALONE
    os.environ.update({key: os.environ.get(key, value) for key, value in wanted.items()})
