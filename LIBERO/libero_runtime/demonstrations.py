"""Record demonstrations of the scripted expert with many processes.

    python -m libero_runtime.demonstrations --suite libero_spatial --tasks 0-9 --episodes-per-task 100 \\
        --output DIR --num-workers 16 --noise 0.05 --seed 0

Writes one HDF5 file per task in LIBERO's own layout (see `demos.hdf5`). Only successful episodes are kept; an
attempt that fails is replaced by another one. The same options give the same demonstrations whatever the number of
workers. Episode i starts from initial state i modulo the number of initial states; repeats differ by their seed. A run
that was interrupted continues when the same command is given again. `libero_runtime.demos` is the short command.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from libero_runtime.cameras import simulated_name
from libero_runtime.commands import run_command, use_one_thread
from libero_runtime.cpus import num_cpus
from libero_runtime.demonstration_parts import Parts
from libero_runtime.demonstration_plan import DemonstrationError, EpisodeReport, RunOptions, Schedule, TaskBook
from libero_runtime.demonstration_team import Team, Workshop
from libero_runtime.demos.episodes import MAX_STEPS, EpisodeOptions
from libero_runtime.demos.hdf5 import COMPRESSIONS
from libero_runtime.number_lists import at_least_one, not_negative, parse_numbers, whole
from libero_runtime.opengl import select_opengl
from libero_runtime.paths import prepare_libero
from libero_runtime.suites import init_states, load_suite, suite_asset_kind


def record(
    options: RunOptions, *, output: Path, num_workers: int, show_progress: bool = True, restart: bool = False
) -> dict[int, TaskBook]:
    """Record all demonstrations and write the files; returns the count of each task.

    What an interrupted run with the same options finished is kept; `restart` throws it away.
    """
    suite = load_suite(options.suite)
    if output.exists() and not output.is_dir():
        raise DemonstrationError(f"{output} is a file; give a folder for the demonstrations")
    output.mkdir(parents=True, exist_ok=True)
    prepare_libero()  # makes the fast look's models once, before the workers look for them
    description = json.dumps({**dataclasses.asdict(options), "assets": suite_asset_kind(options.suite)})
    parts = Parts(output, description, restart=restart)
    books = {task_id: TaskBook(task_id, options.episodes_per_task) for task_id in options.tasks}
    unwritten = set(options.tasks)
    for task_id, book in books.items():
        lengths = parts.complete_file(suite.task(task_id), output)
        if lengths is not None:
            book.recall([EpisodeReport(task_id, index, True, length) for index, length in enumerate(lengths)])
            unwritten.remove(task_id)
    if not unwritten and not parts.folder.is_dir():
        return books
    with (
        parts.begun(),
        tqdm(total=options.episodes_per_task * len(books), unit="demo", disable=not show_progress) as bar,
    ):
        for task_id in unwritten:
            books[task_id].recall(parts.finished(task_id))
        if unwritten:
            schedule = Schedule(options, [books[task_id] for task_id in sorted(unwritten)])
            workshop = Workshop(options, parts, output, description)
            _record_rest(schedule, books, workshop, num_workers, bar)
        for task_id in options.tasks:
            parts.clear(task_id)  # of attempts that were not needed, or of a run killed when a file was just written
        parts.remove()
    return books


def _record_rest(
    schedule: Schedule, books: dict[int, TaskBook], workshop: Workshop, num_workers: int, bar: tqdm
) -> None:
    """Have the missing attempts made and the files written."""
    team = Team(min(num_workers, schedule.num_jobs), workshop)
    try:
        while True:
            if num_new := sum(len(book.successes) for book in books.values()) - bar.n:
                bar.update(num_new)
            if schedule.finished:
                return
            for worker in team.idle():
                job = schedule.next_job(worker.task_id, team.num_workers_by_task())
                if job is not None:
                    team.assign(worker, job)
            for job, answer in team.answers():
                if isinstance(answer, EpisodeReport):
                    workshop.parts.note(answer)
                elif answer is not None and answer.last:
                    workshop.parts.clear(answer.task_id)
                schedule.finish(job, answer)
    finally:
        team.close()


# Command line -------------------------------------------------------------------------------------------------------


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m libero_runtime.demonstrations",
        description="Record demonstrations of the scripted expert in LIBERO's HDF5 layout.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--suite", default="libero_spatial", help=f"task suite; the expert knows {', '.join(MAX_STEPS)}"
    )
    add_options(parser)
    parser.add_argument(
        "--episodes-per-task", type=at_least_one, default=50, help="demonstrations to keep of each task"
    )
    parser.add_argument("--output", type=Path, required=True, help="folder for the files")
    return parser


def add_options(parser: argparse.ArgumentParser) -> None:
    """What both commands share."""
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
    parser.add_argument("--compression", choices=COMPRESSIONS, default="lzf", help="of the pictures")
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


def _summary(books: dict[int, TaskBook], seconds: float) -> str:
    lines = [
        f"task {book.task_id}: {len(book.successes)} demonstrations of {book.num_attempts} attempts, "
        f"mean length {np.mean(book.lengths):.1f}, longest {max(book.lengths)}"
        for book in books.values()
    ]
    num_demos = sum(len(book.successes) for book in books.values())
    steps = sum(sum(book.lengths) for book in books.values())
    lines.append(
        f"{num_demos} demonstrations, {steps} steps in {seconds:.1f} s: {num_demos / seconds:.2f} demonstrations/s, "
        f"{steps / seconds:.0f} steps/s"
    )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    return run(_parser().parse_args(arguments))


def run(parsed: argparse.Namespace) -> int:
    """Carry out a parsed command line; returns the exit status."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    use_one_thread()  # in the workers, of which there is one per core
    started = time.monotonic()

    def command() -> int:
        options = _options(parsed)
        select_opengl()
        books = record(options, output=parsed.output, num_workers=parsed.num_workers, restart=parsed.restart)
        seconds = time.monotonic() - started
        sys.stdout.write(_summary(books, seconds) + f"\nwritten to {parsed.output}\n")
        return 0

    try:
        return run_command(command)
    except KeyboardInterrupt:
        sys.stderr.write(f"interrupted: the same command continues from what is in {parsed.output}\n")
        return 130


if __name__ == "__main__":
    sys.exit(main())
