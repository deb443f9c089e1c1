"""A Ray cluster: an existing one when ``RAY_ADDRESS`` is set, else a local one that ends with us."""

import logging
import os
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from ipaddress import ip_address
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from libero_runtime.cpus import control_groups, num_cpus
from rlinf.config.errors import ConfigError
from rlinf.config.placement import Node
from rlinf.scheduler.ray_settings import VARIABLE, configure_ray, named_cluster

log = logging.getLogger(__name__)

CONNECT_S = 5.0
SHARED_MEMORY = "/dev/shm"
SMALL_STORE = 2 * 2**30
"""Bytes of a store that may lie in an ordinary file, where Ray puts it if shared memory is small, as in containers."""
SLOW_STORAGE = "RAY_OBJECT_STORE_ALLOW_SLOW_STORAGE"  # Ray's own switch: a store of any size may
LONGEST_SOCKET = 107  # bytes of a socket's path on Linux
SHORT_FOLDER = "/tmp"
SOCKET = "session_2000-01-01_00-00-00_000000_4194304/sockets/plasma_store.1"  # as long as Ray makes them
MEMORY_LIMITS = ("memory.max", "memory.limit_in_bytes")  # of a control group, in version 2 and 1
GIB = 2**30
HEAD = "node:__internal_head__"  # a resource that Ray gives the head alone


@dataclass(frozen=True)
class Resources:
    """What the cluster offers."""

    nodes: tuple[Node, ...]
    """By rank."""
    gpu_gib: float | None = None
    """Memory of a GPU; machines of a cluster are taken to have the same. None without any."""

    @property
    def num_cpus(self) -> int:
        """Of all nodes."""
        return sum(node.num_cpus for node in self.nodes)

    @property
    def num_gpus(self) -> int:
        """Of all nodes."""
        return sum(node.num_gpus for node in self.nodes)


class Cluster(ExitStack):
    """Context manager around ``ray.init``; on leaving, disconnects, and ends the cluster if we started it."""

    def __init__(self, *, object_store_gb: float) -> None:
        super().__init__()
        self._object_store = int(object_store_gb * 2**30)
        self._gpu_gib: float | None = None

    def __enter__(self) -> "Cluster":
        configure_ray()

        # Ray announces at every start that token authentication, its default, is on.
        logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)
        named = named_cluster()
        with ExitStack() as stack:
            with kept_sigterm():
                if named:
                    stack.callback(leave_ray)
                    self._join(named)
                else:
                    self._start(stack)
            found = self.resources
            self.callback(stack.pop_all().close)
        where = f"cluster at {named}" if named else "local Ray"
        log.info("%s: %d node(s), %d CPUs, %d GPUs", where, len(found.nodes), found.num_cpus, found.num_gpus)
        return self

    def _join(self, named: str) -> None:
        import ray

        address = find_cluster(named)
        try:
            ray.init(address=address, log_to_driver=True, logging_level=logging.WARNING)
        except (ConnectionError, RuntimeError, ray.exceptions.AuthenticationError) as error:
            raise unusable(named, f"the cluster cannot be joined ({error})") from error
        self._compare_stores()

    def _start(self, stack: ExitStack) -> None:
        import ray

        check_room(self._object_store, shared=shutil.disk_usage(SHARED_MEMORY).free, memory=available_memory())
        folder, spilled = work_folders(stack)
        stack.callback(leave_ray)  # before the folder is removed
        ray.init(
            address="local",  # without it Ray joins what the last `ray start` on this machine left
            num_cpus=num_cpus(),
            object_store_memory=self._object_store,
            include_dashboard=False,
            log_to_driver=True,
            logging_level=logging.WARNING,
            _node_ip_address="127.0.0.1",
            _temp_dir=str(folder),
            object_spilling_directory=None if spilled is None else str(spilled),
        )

    def _compare_stores(self) -> None:
        """Say so where a machine of a cluster that others started gives Ray less memory than we would."""
        import ray

        smallest = min(node["Resources"].get("object_store_memory", 0) for node in ray.nodes() if node["Alive"])
        if smallest < self._object_store:
            log.warning(
                "a machine of the cluster has %.1f GiB of object store, this run may need %.1f: Ray will write samples "
                "to disk; give `ray start --object-store-memory=%d`",
                smallest / GIB,
                self._object_store / GIB,
                self._object_store,
            )

    @property
    def resources(self) -> Resources:
        import ray

        found = Resources(ranked(ray.nodes()))
        if found.num_gpus and self._gpu_gib is None:
            look = ray.remote(num_cpus=0, num_gpus=0.01)(smallest_gpu_gib)  # where there is one, which may be elsewhere
            self._gpu_gib = ray.get(look.remote())
        return replace(found, gpu_gib=self._gpu_gib)


@contextmanager
def kept_sigterm() -> Iterator[None]:
    """What this process does on SIGTERM, as batch systems send it, stays as it was.

    Ray's own answers print a trace of its C++ frames, and kill its processes before anything of ours is tidied up; when
    it ends it leaves that signal deadly.
    """
    kept = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, kept)


def leave_ray() -> None:
    """Disconnect, and end a cluster of our own."""
    import ray

    with kept_sigterm():
        ray.shutdown()


def ranked(found: Sequence[Mapping[str, Any]]) -> tuple[Node, ...]:
    """The nodes that are there, of those that Ray lists: the head first, the others by address."""

    def order(node: Mapping[str, Any]) -> tuple[bool, int, str]:
        return HEAD not in node["Resources"], int(ip_address(node["NodeManagerAddress"])), node["NodeID"]

    alive = sorted((node for node in found if node["Alive"]), key=order)
    return tuple(
        Node(
            rank,
            node["NodeID"],
            node["NodeManagerAddress"],
            num_cpus=int(node["Resources"].get("CPU", 0)),
            num_gpus=int(node["Resources"].get("GPU", 0)),
        )
        for rank, node in enumerate(alive)
    )


def work_folders(stack: ExitStack) -> tuple[Path, Path | None]:
    """Where a cluster of our own has its sockets and logs; and where it writes what its memory has no room for, if that
    is elsewhere.

    That is below ``RAY_TMPDIR``, ``TMPDIR`` or /tmp, as Ray has it. Where this is too long for the path of a socket, as
    batch systems' folders are, sockets and logs are in a short one, private to the user and removed with ``stack``.

    Raises:
        ConfigError: neither can be written.
    """
    variable = next((name for name in ("RAY_TMPDIR", "TMPDIR") if os.environ.get(name)), "TMPDIR")
    parent = Path(os.environ.get(variable) or SHORT_FOLDER).absolute()
    folder = parent / "ray"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(f"{folder} belongs to somebody else")
        if len(os.fsencode(folder / SOCKET)) <= LONGEST_SOCKET:
            return folder, None
        private = TemporaryDirectory(prefix="ray_", dir=SHORT_FOLDER, ignore_cleanup_errors=True)
        short = Path(stack.enter_context(private), folder.name)  # Ray lets everybody write into its own
    except OSError as error:
        raise ConfigError(
            f"Ray has no folder for its sockets, logs and samples ({variable} is {parent}): {error}. Set RAY_TMPDIR to "
            f"one that you can write, with a path of at most {LONGEST_SOCKET - len(SOCKET) - len('/ray/')} bytes"
        ) from error
    log.info("%s=%s is too long for the paths of Ray's sockets: they and its logs are in %s", variable, parent, short)
    return short, folder


def smallest_gpu_gib() -> float:
    """Memory of this machine's smallest GPU, without occupying it."""
    query = ("nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits")
    shown = subprocess.run(query, capture_output=True, text=True, check=True, timeout=60).stdout
    return min(float(line) for line in shown.splitlines()) / 1024


def available_memory(root: Path = Path("/")) -> int:
    """Bytes of memory that processes may still take, within the limits of a container or a batch system's job.

    root: folder that holds proc/ and sys/.
    """
    lines = (root / "proc" / "meminfo").read_text().splitlines()
    available = next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    limits = [group / name for group in control_groups("memory", root) for name in MEMORY_LIMITS]
    given = [text for path in limits if path.is_file() and (text := path.read_text().strip()).isdigit()]
    return min([available, *map(int, given)])


def check_room(store: int, *, shared: int, memory: int) -> None:
    """Refuse an object store that the machine has no room for.

    store, shared, memory: bytes of the store, free in ``/dev/shm``, and available to processes.

    Raises:
        ConfigError: says what is missing and what to do.
    """
    fewer = (
        "or collect fewer episodes per epoch (algorithm.rollout_epoch). A smaller cluster.object_store_gb runs too, "
        "but then Ray writes samples to disk"
    )
    if store > memory:
        raise ConfigError(
            f"Ray's object store, {store / GIB:.1f} GiB, does not fit into the {memory / GIB:.1f} GiB of memory that "
            f"are available: end other programs, {fewer}"
        )
    if store > max(shared, SMALL_STORE) and not os.environ.get(SLOW_STORAGE):
        raise ConfigError(
            f"Ray's object store, {store / GIB:.1f} GiB, does not fit into {SHARED_MEMORY}, which has "
            f"{shared / GIB:.1f} GiB free: enlarge it (docker run --shm-size={-(-store // GIB)}g), {fewer}"
        )


def find_cluster(named: str) -> str:
    """HOST:PORT of a cluster that answers; takes less than a minute, where Ray would wait without an end.

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
