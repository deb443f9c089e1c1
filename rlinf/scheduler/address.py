"""The cluster that ``RAY_ADDRESS`` names: whether there is one, and whether it answers.

Ray itself waits without an end for one that does not.
"""

import os
import re
import socket

from rlinf.config.errors import ConfigError

VARIABLE = "RAY_ADDRESS"
CONNECT_S = 5.0


def named_cluster() -> str | None:
    """``RAY_ADDRESS``; None where a cluster of our own is wanted, for which Ray's word is "local"."""
    address = os.environ.get(VARIABLE, "").strip()
    return None if address in ("", "local") else address


def find_cluster(named: str) -> str:
    """HOST:PORT of a cluster that answers; takes less than a minute.

    Raises:
        ConfigError: there is none, or not of that kind.
    """
    from ray._private import services
    from ray._raylet import GcsClient  # type: ignore[attr-defined]  # compiled
    from ray.exceptions import RayError

    # Ray's own "auto" would take any cluster of this machine, such as that of somebody's run.
    asked = services.find_bootstrap_address(None) if named == "auto" else named
    if asked is None:
        raise unusable(named, "`ray start` has started no cluster on this machine")
    if not re.fullmatch(r"([^/:]+|\[[^/]+\]):[0-9]+", asked):
        raise unusable(named, "expected HOST:PORT, as `ray start --head --port=PORT` shows it")
    address = services.canonicalize_bootstrap_address(asked) or ""  # not loopback: other machines join it too
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_S).close()
    except (OSError, OverflowError) as error:
        raise unusable(named, f"nothing answers at {address} ({error})") from error
    try:
        GcsClient(address=address)
    except RayError as error:
        raise unusable(named, f"what answers at {address} is no cluster that can be joined ({error})") from error
    return address


def unusable(named: str, why: str) -> ConfigError:
    """The one message about a cluster that cannot be joined."""
    return ConfigError(
        f"{VARIABLE}={named}: {why}. Start that cluster or correct the address (docs/troubleshooting.md), or unset "
        f"{VARIABLE}: each run then starts a cluster of its own"
    )
