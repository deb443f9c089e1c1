"""Does the memory of a run's processes grow? One task of many epochs on the small policy.

    python -m benchmarks.memory_over_time [--epochs 20] [--simulators 4] [--out FOLDER] [key=value ...]
    python -m benchmarks.memory_over_time --tasks       # one process that opens and closes 40 tasks' scenes, twice

After each checkpoint the private memory of every process is read (what it shares with others, such as Ray's object
store, is left out). The table gives each process's memory after the first quarter of the epochs and at the end, and the
slope in between with its standard error. Exit code 1 when one grows by more than 1 MB an epoch, beyond three of these.
With ``--tasks`` a task is started, simulated for 16 steps and drawn; the table has the memory after each suite.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.chaos import CONFIG, SMALL, Run, launched, processes
from libero_runtime.sim.scene import Scene
from libero_runtime.suites import load_suite
from rlinf.cli.console import REPOSITORY, configure_process, run_cli

KINDS = {"ray::Env": "simulator", "ray::Roll": "rollout", "ray::Act": "actor", "rlinf.cli.run_sequence": "driver"}
LIMIT_MB = 1.0
SUITES = ("libero_spatial", "libero_object", "libero_goal", "libero_10")
GROWN = 1.1  # of the largest memory in the first pass


def main(arguments: Sequence[str]) -> int:
    """Run it; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--simulators", type=int, default=4, help="processes")
    parser.add_argument("--out", type=Path, help="a new folder; by default below logs/memory")
    parser.add_argument("--tasks", action="store_true", help="one scene after the other in this process")
    parser.add_argument("overrides", nargs="*", help="of the configuration, key=value")
    args = parser.parse_args(arguments)
    if args.tasks:
        return pass_over_tasks()
    configure_process()  # so that a signal ends the run, too
    out = (args.out or REPOSITORY / "logs" / "memory" / time.strftime("%Y%m%d_%H%M%S")).absolute()
    out.mkdir(parents=True)
    own = [f"cluster.num_env_workers={args.simulators}", "runner.keep_checkpoints=1", *args.overrides]
    with launched("0", [str(args.epochs), CONFIG, "1234", *SMALL, *own], out / "run") as run:
        megabytes = watch(run)
        code = run.process.wait()
    if code:
        print(run.log.read_text()[-3000:])
        return code
    return table(megabytes)


def pass_over_tasks() -> int:
    """Open, use and close the scene of every task, twice over; returns the exit code."""
    print("| after | MB, first pass | second |\n|---|---:|---:|")
    random = np.random.default_rng(0)
    found: dict[str, list[float]] = {}
    for suite in SUITES * 2:
        for task in load_suite(suite).tasks:
            scene = Scene(task, image_size=256)
            state, _ = scene.start(init_index=0)
            scene.advance(state, random.uniform(-1, 1, (16, 7)))
            scene.close()
        found.setdefault(suite, []).append(private_mb(os.getpid()) or 0.0)
    for suite, sizes in found.items():
        print(f"| {suite} | {' | '.join(f'{size:.0f}' for size in sizes)} |")
    return int(max(second for _, second in found.values()) > GROWN * max(first for first, _ in found.values()))


def watch(run: Run) -> dict[str, dict[int, float]]:
    """MB of each process at each epoch, until the run ends."""
    found: dict[str, dict[int, float]] = {}
    epoch = 0
    while run.process.poll() is None:
        time.sleep(0.2)
        if (newest := run.newest()) > epoch:
            epoch = newest
            for pid, line in processes(run.marker):
                kind = next((name for text, name in KINDS.items() if text in line), None)
                if kind and pid != run.process.pid and (size := private_mb(pid)) is not None:
                    found.setdefault(f"{kind} {pid}", {})[epoch] = size
    return found


def private_mb(pid: int) -> float | None:
    """Memory that only this process has; None where it has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return None
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) / 1024


def table(megabytes: dict[str, dict[int, float]]) -> int:
    """Print it; returns the exit code."""
    print("| process | MB after a quarter | at the end | MB an epoch |\n|---|---:|---:|---:|")
    code = 0
    for name, sizes in sorted(megabytes.items()):
        epochs, values = np.array(sorted(sizes)), np.array([sizes[epoch] for epoch in sorted(sizes)])
        late = epochs > epochs[-1] // 4
        (slope, _), covariance = np.polyfit(epochs[late], values[late], 1, cov=True)
        error = float(np.sqrt(covariance[0, 0]))
        grows = slope > LIMIT_MB and slope > 3 * error
        code |= int(grows)
        text = f"{slope:+.2f} ± {error:.2f}{' GROWS' if grows else ''}"
        print(f"| {name.split()[0]} | {values[late][0]:.0f} | {values[-1]:.0f} | {text} |")
    return code


if __name__ == "__main__":
    run_cli(main)
