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


def test_affinity_counts():
    command = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); import libero_runtime.cpus as c; "
    done = subprocess.run([sys.executable, "-c", command + "print(c.num_cpus())"], stdout=subprocess.PIPE, check=True)
    assert done.stdout.strip() == b"1"
    assert 1 <= num_cpus() <= ALL


VERSION_1 = "12:pids:/slurm\n4:cpu,cpuacct:/slurm/uid_0/job_7\n3:cpuset:/\n0::/init.scope"


@pytest.mark.parametrize(
    ("group", "files", "count"),
    [
        ("0::/slurm/job_7", {"slurm/job_7/cpu.max": "max 100000"}, 16),
        ("0::/slurm/job_7", {"slurm/job_7/cpu.max": "150000 100000"}, 2),
        ("0::/slurm/job_7", {"slurm/job_7/cpu.max": "10000 100000"}, 1),
        ("0::/slurm/job_7", {"slurm/job_7/cpu.max": "9900000 100000"}, 16),
        # a group around ours counts as well
        ("0::/slurm/job_7/0", {"slurm/job_7/cpu.max": "300000 100000", "slurm/job_7/0/cpu.max": "max 100000"}, 3),
        # Docker without a namespace of its own names the host's path, of which only the end is mounted
        ("0::/docker/0123abc", {"cpu.max": "200000 100000"}, 2),
        (VERSION_1, {"cpu,cpuacct/cpu.cfs_quota_us": "-1", "cpu,cpuacct/cpu.cfs_period_us": "100000"}, 16),
        (VERSION_1, {"cpu,cpuacct/cpu.cfs_quota_us": "500000", "cpu,cpuacct/cpu.cfs_period_us": "100000"}, 5),
        (VERSION_1, {f"cpu/slurm/uid_0/job_7/cpu.cfs_{name}_us": "100000" for name in ("quota", "period")}, 1),
        ("", {}, 16),
    ],
)
def test_quotas_of_control_groups(tmp_path, monkeypatch, group, files, count):
    """On a machine that lets this process use 16 CPUs."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)))
    limits = {f"sys/fs/cgroup/{name}": quota for name, quota in files.items()}
    for name, text in {"proc/self/cgroup": group, **limits}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert num_cpus(tmp_path) == count


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
    repository = Path(__file__).resolve().parents[3]
    folders = ("rlinf", "LIBERO/libero_runtime", "openvla-oft", "transformers-openvla-oft", "benchmarks", "examples")
    files = [path for folder in folders for path in (repository / folder).rglob("*") if path.suffix in (".py", ".sh")]
    asking = [
        path.name
        for path in files
        if any(word in path.read_text() for word in ("cpu_count()", "sched_getaffinity(0)", "$(nproc"))
    ]
    assert sorted(asking) == ["cpus.py", "doctor.py"]
