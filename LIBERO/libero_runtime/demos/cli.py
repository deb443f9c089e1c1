"""The command that records demonstrations, `libero_runtime.demonstrations` or `libero_runtime.demos`.

    python -m libero_runtime.demonstrations --suite libero_spatial --tasks 0-9 --episodes-per-task 100 \\
        --output DIR --num-workers 16 --noise 0.05 --seed 0
    python -m libero_runtime.demos libero_goal --episodes 50 --out DIR

Writes one HDF5 file per task in LIBERO's own layout (see `demos.hdf5`). Only successful episodes are kept; an attempt
that fails is replaced by another one. The same options give the same demonstrations whatever the number of workers.
Episode i starts from initial state i modulo the number of initial states; repeats differ by their seed. A run that was
interrupted continues when the same command is given again.
"""

import argparse
import logging
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import numpy as np

from libero_runtime.commands import naming, number_ranges, run_command, use_one_thread
from libero_runtime.cpus import num_cpus
from libero_runtime.demos.episodes import MAX_STEPS, EpisodeOptions
from libero_runtime.demos.plan import DemonstrationError, RunOptions
from libero_runtime.demos.record import TaskResult, record
from libero_runtime.opengl import select_opengl
from libero_runtime.options import Given, Option, add_options, build, given_in
from libero_runtime.render.cameras import simulated_name
from libero_runtime.suites import init_states, load_suite


@dataclass(frozen=True, kw_only=True)
class CommandOptions:
    """Where demonstrations go, and who records them."""

    output: Annotated[Path, Option("folder for the files", alias="out")]
    num_workers: Annotated[int, Option("processes (default: one per core)", least=1)] = field(default_factory=num_cpus)
    restart: Annotated[bool, Option("throw away what is in the folder from earlier runs")] = False


def main(arguments: Sequence[str] | None = None) -> int:
    """Record; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m libero_runtime.demos",
        description="Record demonstrations of the scripted expert in LIBERO's HDF5 layout, one file per task.",
    )
    parser.add_argument("suite", metavar="SUITE", nargs="?", default=argparse.SUPPRESS, help="the same as --suite")
    for kind in (RunOptions, EpisodeOptions, CommandOptions):
        add_options(parser, kind)
    given = given_in(parser.parse_args(arguments))
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    use_one_thread()  # in the workers, of which there is one per core
    outlook = f"the same command continues from what is in {given['output']}"
    return run_command(lambda: _record(given), interrupted=lambda: outlook)


def _options(given: Given) -> RunOptions:
    options = build(RunOptions, given)
    suite = load_suite(options.suite)
    for task_id in options.tasks:
        num_states = len(init_states(suite.task(task_id)))
        if max(options.init_indices) >= num_states:
            raise DemonstrationError(
                f"--init-range {number_ranges(options.init_indices)}: {options.suite} task {task_id} has initial "
                f"states 0 to {num_states - 1}"
            )
    cameras = tuple(map(simulated_name, options.cameras))
    if len(set(cameras)) != len(cameras):
        raise DemonstrationError(f"--cameras {','.join(options.cameras)} names a camera twice")
    limit = MAX_STEPS.get(suite.name, max(MAX_STEPS.values()))
    return replace(options, cameras=cameras, episode=build(EpisodeOptions, {"max-steps": limit, **given}))


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


def _record(given: Given) -> int:
    started = time.monotonic()
    command, options = build(CommandOptions, given), _options(given)
    select_opengl()
    with naming(command.output):
        results = record(options, output=command.output, num_workers=command.num_workers, restart=command.restart)
    sys.stdout.write(f"{_summary(results, time.monotonic() - started)}\nwritten to {command.output}\n")
    return 0
