"""The Ray cluster that a run starts for itself."""

import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
RUN = """
import rlinf.cli  # as every command does
import socket
import ray
from ray._private.ray_constants import RAY_DEDUP_LOGS
from rlinf.scheduler.cluster import Cluster

def listens(address, port):
    with socket.socket() as probe:
        probe.settimeout(10)
        return probe.connect_ex((address, port)) == 0

with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:  # which sends nothing
    outside = None if probe.connect_ex(("192.0.2.1", 9)) else probe.getsockname()[0]

with Cluster(object_store_gb=0.1):
    port = int(ray.get_runtime_context().gcs_address.rpartition(":")[2])
    worker = ray.remote(num_cpus=0)(ray.util.get_node_ip_address)
    print(ray.get(worker.remote()), listens("127.0.0.1", port), outside and listens(outside, port), RAY_DEDUP_LOGS)
"""


def test_it_listens_on_the_loopback_interface_alone_and_passes_on_every_line() -> None:
    """Ray's defaults: every interface, and of several workers' equal lines the first, with advice about the others."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "-c", RUN], cwd=REPOSITORY, env=env, capture_output=True, text=True, timeout=120, check=True
    )
    address, within, without, repeats = done.stdout.split()
    assert (address, within) == ("127.0.0.1", "True")
    assert without in ("False", "None"), "None: a machine without a network"
    assert repeats == "False"


BESIDE = """
import os
import ray
from rlinf.scheduler.cluster import Cluster

with Cluster(object_store_gb=0.1) as cluster:
    print(cluster.resources.num_cpus, ray._private.worker._global_node.temp_dir)
"""


@pytest.mark.parametrize("length", [0, 90])
def test_it_is_its_own_whatever_else_there_is(length: int) -> None:
    """What somebody's `ray start` left, a batch system's long folder, and one CPU of several."""
    with TemporaryDirectory(prefix="own_", dir="/tmp") as parent:
        given = Path(parent, "x" * length)
        (given / "ray").mkdir(parents=True)
        (given / "ray" / "ray_current_cluster").write_text("127.0.0.1:6399")
        env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        one_cpu = f"import os; os.sched_setaffinity(0, {{{min(os.sched_getaffinity(0))}}})"
        done = subprocess.run(
            [sys.executable, "-c", f"{one_cpu}\n{BESIDE}"],
            cwd=REPOSITORY,
            env={**env, "TMPDIR": str(given)},
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
        num_cpus, used = done.stdout.split()
        assert num_cpus == "1"
        assert (Path(used) == given / "ray") == (length == 0)
        assert Path(used).exists() == (length == 0), "a folder that was chosen for it is removed"
