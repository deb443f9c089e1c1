"""The command that records demonstrations, `libero_runtime.demonstrations` or `libero_runtime.demos`.

    python -m libero_runtime.demonstrations --suite libero_spatial --tasks 0-9 --episodes-per-task 100 \\
        --output DIR --num-workers 16 --noise 0.05 --seed 0
    python -m libero_runtime.demos libero_goal --episodes 50 --out DIR

Writes one HDF5 file per task in LIBERO's own layout (see `demos.hdf5`). Only successful episodes are kept; an attempt
that fails is replaced by another one. The same options give the same demonstrations whatever the number of workers.
Episode i starts from initial state i modulo the number of initial states; repeats differ by their seed. A run that was
interrupted continues when the same command is given again.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from libero_runtime.commands import (
    at_least_one,
    naming,
    not_negative,
    parse_numbers,
    run_command,
    use_one_thread,
    whole,
)
from libero_runtime.cpus import num_cpus
from libero_runtime.demos.episodes import MAX_STEPS, EpisodeOptions
from libero_runtime.demos.hdf5 import COMPRESSIONS
from libero_runtime.demos.plan import DemonstrationError, RunOptions
from libero_runtime.demos.record import TaskResult, record
from libero_runtime.opengl import select_opengl
from libero_runtime.render.cameras import simulated_name
from libero_runtime.suites import init_states, load_suite


def main(arguments: Sequence[str] | None = None) -> int:
    """Record; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m libero_runtime.demos",
        description="Record demonstrations of the scripted expert in LIBERO's HDF5 layout, one file per task.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    suites = ", ".join(MAX_STEPS)
    parser.add_argument("suite", metavar="SUITE", nargs="?", default=argparse.SUPPRESS, help=f"task suite: {suites}")
    parser.add_argument("--suite", default="libero_spatial", help="the same, by name")
    parser.add_argument(
        "--episodes-per-task", "--episodes", type=at_least_one, default=50, help="demonstrations to keep of each task"
    )
    parser.add_argument("--output", "--out", type=Path, required=True, help="folder for the files")
    parser.add_argument("--tasks", default="0-9", help="task numbers, such as 0-9 or 0,3,5")
    parser.add_argument("--num-workers", type=at_least_one, default=num_cpus(), help="processes, one per core")
    parser.add_argument("--noise", type=not_negative, default=0.05, help="spread of the noise on the executed motion")
    parser.add_argument(
        "--record",
        choices=("expert", "executed"),
        default="expert",
        help="action kept: the expert's at the visited state, or the noisy one that was executed",
    )
    parser.add_argument("--init-range", default="0-49", help="initial states to start from")
    parser.add_argument(
        "--init-jitter", type=not_negative, default=0.0, help="metres by which objects are moved at the start"
    )
    parser.add_argument("--cameras", default="agentview", help="camera names, separated by commas")
    parser.add_argument("--image-size", type=at_least_one, default=256, help="pixels (LIBERO's own files have 128)")
    parser.add_argument("--compression", choices=COMPRESSIONS, default="lzf", help="of the images")
    parser.add_argument(
        "--max-steps",
        type=at_least_one,
        help="an episode is given up after so many steps (default: the suite's own limit)",
    )
    parser.add_argument(
        "--max-grasps", type=at_least_one, default=3, help="an episode is given up after so many attempts at one thing"
    )
    parser.add_argument("--seed", type=whole, default=0, help="of noise, jitter and the poses of fixtures")
    parser.add_argument("--restart", action="store_true", help="throw away what is in the folder from earlier runs")
    return _run(parser.parse_args(arguments))


def _options(arguments: argparse.Namespace) -> RunOptions:
    tasks = parse_numbers(arguments.tasks)
    init_indices = parse_numbers(arguments.init_range)
    suite = load_suite(arguments.suite)
    for task_id in tasks:
        num_states = len(init_states(suite.task(task_id)))
        if max(init_indices) >= num_states:
            raise DemonstrationError(
                f"--init-range {arguments.init_range}: {arguments.suite} task {task_id} has initial states 0 to "
                f"{num_states - 1}"
            )
    cameras = tuple(simulated_name(camera) for camera in arguments.cameras.split(","))
    if len(set(cameras)) != len(cameras):
        raise DemonstrationError(f"--cameras {arguments.cameras} names a camera twice")
    return RunOptions(
        suite=arguments.suite,
        tasks=tasks,
        episodes_per_task=arguments.episodes_per_task,
        seed=arguments.seed,
        init_indices=init_indices,
        cameras=cameras,
        image_size=arguments.image_size,
        compression=arguments.compression,
        episode=EpisodeOptions(
            noise=arguments.noise,
            record=arguments.record,
            init_jitter=arguments.init_jitter,
            max_steps=arguments.max_steps or MAX_STEPS.get(suite.name, max(MAX_STEPS.values())),
            max_grasps=arguments.max_grasps,
        ),
    )


def _summary(results: Sequence[TaskResult], seconds: float) -> str:
    lines = [
        f"task {result.task_id}: {len(result.lengths)} demonstrations of {result.num_attempts} attempts, "
        f"mean length {np.mean(result.lengths):.1f}, longest {max(result.lengths)}"
        for result in results
    ]
    num_demos = sum(len(result.lengths) for result in results)
    steps = sum(sum(result.lengths) for result in results)
    lines.append(
        f"{num_demos} demonstrations, {steps} steps in {seconds:.1f} s: {num_demos / seconds:.2f} demonstrations/s, "
        f"{steps / seconds:.0f} steps/s"
    )
    return "\n".join(lines)


def _run(parsed: argparse.Namespace) -> int:
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    use_one_thread()  # in the workers, of which there is one per core
    try:
        return run_command(lambda: _record(parsed))
    except KeyboardInterrupt:
        sys.stderr.write(f"interrupted: the same command continues from what is in {parsed.output}\n")
        return 130


def _record(parsed: argparse.Namespace) -> int:
    started = time.monotonic()
    options = _options(parsed)
    select_opengl()
    with naming(parsed.output):
        results = record(options, output=parsed.output, num_workers=parsed.num_workers, restart=parsed.restart)
    sys.stdout.write(f"{_summary(results, time.monotonic() - started)}\nwritten to {parsed.output}\n")
    return 0
