"""How many CPUs are ours: not how many the machine has.

A batch system's scheduler gives a job some of them by affinity, and a container a share of their time by a quota of
control groups. As many processes or threads as the machine has CPUs would then only get into each other's way.
"""

import os
from collections.abc import Iterator
from math import ceil
from pathlib import Path, PurePosixPath


def num_cpus(root: Path = Path("/")) -> int:
    """CPUs that this process may use: those of its affinity, or fewer where a control group allows less time.

    root: folder that holds proc/ and sys/.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = [quota for group in control_groups("cpu", root) if (quota := _quota(group)) is not None]
    return max(1, min([allowed, *map(ceil, quotas)]))


def control_groups(controller: str, root: Path = Path("/")) -> Iterator[Path]:
    """Folders of the groups that limit this process: its own and all around it, of either version."""
    for mount, path in _hierarchies(controller, root):
        group = PurePosixPath(path.lstrip("/"))
        for name in dict.fromkeys((group, *group.parents)):
            # a container may see its own group as the root of all: then only the last folder exists
            yield mount / name


def _hierarchies(controller: str, root: Path) -> Iterator[tuple[Path, str]]:
    """Where a hierarchy with the controller is mounted, and the group of this process in it."""
    mounts = root / "sys" / "fs" / "cgroup"
    try:
        lines = (root / "proc" / "self" / "cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:  # not Linux
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:  # version 2, alone or beside version 1
            yield from ((mount, path) for mount in (mounts, mounts / "unified"))
        elif controller in controllers.split(","):
            yield from ((mounts / name, path) for name in (controllers, controller))


def _quota(group: Path) -> float | None:
    """CPUs' worth of time that one group allows; None where it sets no limit."""
    try:
        quota, period = (group / "cpu.max").read_text(encoding="utf-8").split()
    except (OSError, ValueError):
        try:
            quota, period = ((group / f"cpu.cfs_{name}_us").read_text(encoding="utf-8") for name in ("quota", "period"))
        except OSError:
            return None
    try:
        cpus = float(quota) / float(period)
    except (ValueError, ZeroDivisionError):  # "max"
        return None
    return cpus if cpus > 0 else None  # version 1 says -1 for no limit


if __name__ == "__main__":
    print(num_cpus())  # noqa: T201 - for shell scripts
