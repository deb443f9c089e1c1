"""The Ray cluster that a run starts for itself."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.launchers import REPOSITORY
from tests.processes import python

RUN = """
import json
import os
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
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

with Cluster(object_store_gb=0.1) as cluster:
    port = int(ray.get_runtime_context().gcs_address.rpartition(":")[2])
    worker = ray.remote(num_cpus=0)(ray.util.get_node_ip_address)
    print(json.dumps({
        "address": ray.get(worker.remote()),
        "within": listens("127.0.0.1", port),
        "without": bool(outside) and listens(outside, port),  # a machine without a network has none
        "repeats": RAY_DEDUP_LOGS,
        "cpus": cluster.resources.num_cpus,
        "folder": ray._private.worker._global_node.temp_dir,
    }))
"""


@pytest.mark.parametrize("length", [0, 90])
def test_it_is_its_own_whatever_else_there_is(length):
    """It listens on the loopback interface alone and passes on every line, where Ray's defaults are every interface and
    the first of several workers' equal lines. Beside what somebody's `ray start` left, with a batch system's long
    folder, and on one CPU of several."""
    with TemporaryDirectory(prefix="own_", dir="/tmp") as parent:
        given = Path(parent, "x" * length)
        (given / "ray").mkdir(parents=True)
        (given / "ray" / "ray_current_cluster").write_text("127.0.0.1:6399")
        env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        env["TMPDIR"] = str(given)
        words = [sys.executable, "-c", RUN]
        done = subprocess.run(words, cwd=REPOSITORY, env=env, capture_output=True, text=True, timeout=300, check=True)
        found = json.loads(done.stdout)
        folder = Path(found.pop("folder"))
        assert found == {"address": "127.0.0.1", "within": True, "without": False, "repeats": False, "cpus": 1}
        assert (folder == given / "ray") == (length == 0)
        assert folder.exists() == (length == 0), "a folder that was chosen for it is removed"


WAITING = """
import time
import ray
from rlinf.cli.console import configure_process, run_cli
from rlinf.scheduler.cluster import Cluster

def wait():
    time.sleep(300)

def main(_):
    configure_process()
    with Cluster(object_store_gb=0.1):
        try:
            print("ready", flush=True)
            ray.get(ray.remote(num_cpus=0)(wait).remote())
        finally:
            print("there are still", len(ray.nodes()), "nodes", flush=True)
    return 0

run_cli(main)
"""


@pytest.mark.parametrize("waiting_s", [0, 1])
def test_sigterm_lets_a_run_tidy_up_while_its_cluster_is_there(waiting_s):
    """As batch systems end a job: nothing but the command's own lines, and the exit code of that signal."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    pipe = subprocess.PIPE
    with subprocess.Popen(python(WAITING), cwd=REPOSITORY, env=env, stdout=pipe, stderr=pipe, text=True) as run:
        assert run.stdout.readline() == "ready\n"
        time.sleep(waiting_s)  # Ray, waiting, makes an exit code of its own of any
        run.send_signal(signal.SIGTERM)
        shown, said = run.communicate(timeout=120)
    assert run.returncode == 128 + signal.SIGTERM
    assert shown == "there are still 1 nodes\n"
    assert [line for line in said.splitlines() if "local Ray: 1 node(s)" not in line] == []
