"""How many CPUs a process may use, where a batch system or a container gave it fewer than the machine has."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from libero_runtime.cpus import num_cpus
from openvla_oft import cli

ALL = len(os.sched_getaffinity(0))


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A root folder with the given files, of a machine that lets this process use 16 CPUs."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))

    def make(group: str, **files: str) -> Path:
        for name, text in {"proc/self/cgroup": group, **files}.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text + "\n")
        return tmp_path

    return make


def test_affinity_counts():
    command = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); import libero_runtime.cpus as c; "
    done = subprocess.run([sys.executable, "-c", command + "print(c.num_cpus())"], stdout=subprocess.PIPE, check=True)
    assert done.stdout.strip() == b"1"
    assert 1 <= num_cpus() <= ALL


def test_without_control_groups_affinity_alone_counts(tmp_path):
    assert num_cpus(tmp_path) == ALL


@pytest.mark.parametrize(
    ("quota", "count"),
    [("max 100000", 16), ("400000 100000", 4), ("150000 100000", 2), ("10000 100000", 1), ("9900000 100000", 16)],
)
def test_a_quota_of_version_2(machine, quota, count):
    group = "0::/system.slice/job_7"
    assert num_cpus(machine(group, **{"sys/fs/cgroup/system.slice/job_7/cpu.max": quota})) == count


def test_a_group_around_ours_counts_as_well(machine):
    folder = "sys/fs/cgroup/slurm/job_7"
    files = {f"{folder}/cpu.max": "300000 100000", f"{folder}/step_0/cpu.max": "max 100000"}
    assert num_cpus(machine("0::/slurm/job_7/step_0", **files)) == 3


def test_a_container_sees_its_group_as_the_root(machine):
    """Docker without a namespace of its own names the host's path, of which only the end is mounted."""
    assert num_cpus(machine("0::/docker/0123abc", **{"sys/fs/cgroup/cpu.max": "200000 100000"})) == 2


@pytest.mark.parametrize("folder", ["cpu,cpuacct", "cpu"])
@pytest.mark.parametrize("group", ["", "slurm/uid_0/job_7"])
@pytest.mark.parametrize(("quota", "count"), [("-1", 16), ("500000", 5)])
def test_a_quota_of_version_1(machine, folder, group, quota, count):
    place = f"sys/fs/cgroup/{folder}/{group}"
    lines = "12:pids:/slurm\n4:cpu,cpuacct:/slurm/uid_0/job_7\n3:cpuset:/\n0::/init.scope"
    root = machine(lines, **{f"{place}/cpu.cfs_quota_us": quota, f"{place}/cpu.cfs_period_us": "100000"})
    assert num_cpus(root) == count


def test_torch_takes_no_more_threads(monkeypatch):
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(4)
        for allowed, expected in ((8, 4), (3, 3)):
            monkeypatch.setattr(cli, "num_cpus", lambda allowed=allowed: allowed)
            cli.use_our_cpus()
            assert torch.get_num_threads() == expected
    finally:
        torch.set_num_threads(threads)


def test_nothing_else_asks_the_machine():
    """Defaults and thread counts must follow the function; the doctor shows both numbers."""
    repository = Path(__file__).resolve().parents[2]
    folders = ("rlinf", "LIBERO/libero_runtime", "openvla-oft", "transformers-openvla-oft", "benchmarks", "examples")
    files = [path for folder in folders for path in (repository / folder).rglob("*") if path.suffix in (".py", ".sh")]
    asking = [
        path.name
        for path in files
        if any(word in path.read_text() for word in ("cpu_count()", "sched_getaffinity(0)", "$(nproc"))
    ]
    assert sorted(asking) == ["cpus.py", "doctor.py"]
