"""Record demonstrations of the scripted expert with many processes.

    python -m libero_runtime.demonstrations --suite libero_spatial --tasks 0-9 --episodes-per-task 100 \\
        --output DIR --num-workers 16 --noise 0.05 --seed 0

Writes one HDF5 file per task in LIBERO's own layout (see `demonstration_files`). Only successful episodes are kept; an
attempt that fails is replaced by another one. The same options give the same demonstrations whatever the number of
workers. Episode i starts from initial state i modulo the number of initial states; repeats differ by their seed. A run
that was interrupted continues when the same command is given again. `libero_runtime.demos` is the short command.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import logging
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
from tqdm import tqdm

from libero_runtime.asset_files import suite_asset_kind
from libero_runtime.demonstration_files import COMPRESSIONS, demonstration_file, merge_parts, write_part
from libero_runtime.demonstration_parts import Parts
from libero_runtime.demonstration_plan import DemonstrationError, EpisodeReport, RunOptions, TaskBook, plan_attempt
from libero_runtime.episodes import MAX_STEPS, EpisodeOptions, EpisodePlan, run_episode
from libero_runtime.number_lists import parse_numbers
from libero_runtime.opengl import select_opengl
from libero_runtime.paths import prepare_libero
from libero_runtime.scene import Scene
from libero_runtime.suites import Suite, load_suite

logger = logging.getLogger(__name__)

_MAX_DEATHS_IN_A_ROW = 3


# Workers ------------------------------------------------------------------------------------------------------------


def _worker(connection: Connection, options: RunOptions, parts: Parts) -> None:
    """Run attempts as they are asked for, keeping the scene of the last task."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interruption is the main process's to deal with
    prepare_libero()
    suite = load_suite(options.suite)
    scene: Scene | None = None
    while True:
        plan: EpisodePlan | None = connection.recv()
        if plan is None:
            break
        if scene is None or scene.task.task_id != plan.task_id:
            if scene is not None:
                scene.close()
            scene = Scene(suite.task(plan.task_id), cameras=options.cameras, image_size=options.image_size)
        demo = run_episode(scene, plan, options.episode)
        if demo.success:
            path = parts.path(plan.task_id, plan.attempt)
            partial = path.with_suffix(".partial")
            write_part(partial, demo, plan, cameras=options.cameras, compression=options.compression)
            partial.replace(path)
        connection.send(EpisodeReport(plan.task_id, plan.attempt, demo.success, len(demo.actions_TA)))
    if scene is not None:
        scene.close()


@dataclass
class _Handle:
    """The main process's end of a worker."""

    process: BaseProcess
    connection: Connection
    plan: EpisodePlan | None = None  # the attempt it is at
    task_id: int | None = None  # the task whose scene it has


class _Team:
    """A fixed number of worker processes; one that dies is replaced."""

    def __init__(self, num_workers: int, options: RunOptions, parts: Parts) -> None:
        self._context = multiprocessing.get_context("spawn")
        self._options, self._parts = options, parts
        self._deaths_in_a_row = 0
        self.handles = [self._start() for _ in range(num_workers)]

    def _start(self) -> _Handle:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_worker, args=(theirs, self._options, self._parts), daemon=True)
        process.start()
        theirs.close()
        return _Handle(process, ours)

    def assign(self, handle: _Handle, plan: EpisodePlan) -> None:
        handle.plan, handle.task_id = plan, plan.task_id
        # A worker that has just died is noticed when its answer is awaited.
        with contextlib.suppress(BrokenPipeError):
            handle.connection.send(plan)

    def reports(self) -> Iterator[EpisodeReport]:
        """Wait for at least one worker; an attempt whose worker died counts as a failure."""
        busy = [(handle, handle.plan) for handle in self.handles if handle.plan is not None]
        ready = wait([handle.connection for handle, _ in busy])
        for handle, plan in busy:
            if handle.connection not in ready:
                continue
            handle.plan = None
            try:
                report: EpisodeReport = handle.connection.recv()
                self._deaths_in_a_row = 0
            except (EOFError, ConnectionResetError):
                report = self._replace(handle, plan)
            yield report

    def _replace(self, handle: _Handle, plan: EpisodePlan) -> EpisodeReport:
        handle.process.join()
        self._deaths_in_a_row += 1
        message = (
            f"a worker ended with exit code {handle.process.exitcode} in attempt {plan.attempt} of task "
            f"{plan.task_id} (its own error is printed above)"
        )
        if self._deaths_in_a_row >= _MAX_DEATHS_IN_A_ROW:
            raise DemonstrationError(f"{message}; {self._deaths_in_a_row} in a row: giving up")
        logger.warning("%s; starting another", message)
        self.handles[self.handles.index(handle)] = self._start()
        return EpisodeReport(plan.task_id, plan.attempt, False, 0)

    def close(self) -> None:
        """Let idle workers finish; end those still in an episode."""
        for handle in self.handles:
            if handle.plan is None and handle.process.is_alive():
                with contextlib.suppress(BrokenPipeError):
                    handle.connection.send(None)
            else:
                handle.process.terminate()
        for handle in self.handles:
            handle.process.join()


def _choose(handle: _Handle, books: dict[int, TaskBook], handles: Sequence[_Handle]) -> TaskBook | None:
    """Stay with the task whose scene is compiled; else help where most attempts wait per worker."""
    if handle.task_id is not None and books[handle.task_id].pending:
        return books[handle.task_id]
    waiting = [book for book in books.values() if book.pending]
    if not waiting:
        return None
    workers = {book.task_id: sum(other.task_id == book.task_id for other in handles) for book in waiting}
    return max(waiting, key=lambda book: len(book.pending) / (1 + workers[book.task_id]))


# The run ------------------------------------------------------------------------------------------------------------


def record(
    options: RunOptions, *, output: Path, num_workers: int, show_progress: bool = True, restart: bool = False
) -> dict[int, TaskBook]:
    """Record all demonstrations and write the files; returns the count of each task.

    What an interrupted run with the same options finished is kept; `restart` throws it away.
    """
    suite = load_suite(options.suite)
    output.mkdir(parents=True, exist_ok=True)
    prepare_libero()  # generates the assets once, before the workers look for them
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
        for task_id in set(options.tasks) - unwritten:
            parts.clear(task_id)  # of a run that was killed just after it had written them to their file
        for task_id in sorted(unwritten):
            books[task_id].recall(parts.finished(task_id))
            if books[task_id].complete:
                _write(books[task_id], options, suite, parts, output, description)
                unwritten.remove(task_id)
        bar.update(sum(len(book.successes) for book in books.values()))
        if unwritten:
            _record_rest(options, books, unwritten, suite, parts, output, description, num_workers, bar)
        parts.remove()
    return books


def _record_rest(
    options: RunOptions,
    books: dict[int, TaskBook],
    unwritten: set[int],
    suite: Suite,
    parts: Parts,
    output: Path,
    description: str,
    num_workers: int,
    bar: tqdm,
) -> None:
    """Make the attempts that are missing; `unwritten` empties as the tasks' files are written."""
    num_pending = sum(len(book.pending) for book in books.values())
    team = _Team(min(num_workers, num_pending), options, parts)
    try:
        while unwritten:
            for handle in team.handles:
                if handle.plan is None and (book := _choose(handle, books, team.handles)) is not None:
                    team.assign(handle, plan_attempt(options, book.task_id, book.next_attempt()))
            for report in team.reports():
                book = books[report.task_id]
                if report.num_steps > 0:  # not of a worker that died
                    parts.note(report)
                book.finish(report)
                bar.update(report.success)
                if book.complete:
                    _write(book, options, suite, parts, output, description)
                    unwritten.remove(book.task_id)
    finally:
        team.close()


def _write(book: TaskBook, options: RunOptions, suite: Suite, parts: Parts, output: Path, description: str) -> None:
    task = suite.task(book.task_id)
    files = [parts.path(book.task_id, attempt) for attempt in sorted(book.successes)]
    target = demonstration_file(output, task)
    merge_parts(target, files, task, cameras=options.cameras, image_size=options.image_size, options=description)
    parts.clear(book.task_id)


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
    parser.add_argument("--episodes-per-task", type=int, default=50, help="demonstrations to keep of each task")
    parser.add_argument("--output", type=Path, required=True, help="folder for the files")
    return parser


def add_options(parser: argparse.ArgumentParser) -> None:
    """What both commands share."""
    parser.add_argument("--tasks", default="0-9", help="task numbers, such as 0-9 or 0,3,5")
    parser.add_argument("--num-workers", type=int, default=os.cpu_count() or 1, help="processes, one per core")
    parser.add_argument("--noise", type=float, default=0.05, help="spread of the noise on the executed motion")
    parser.add_argument(
        "--record",
        choices=("expert", "executed"),
        default="expert",
        help="action kept: the expert's at the visited state, or the noisy one that was executed",
    )
    parser.add_argument("--init-range", default="0-49", help="initial states to start from")
    parser.add_argument("--init-jitter", type=float, default=0.0, help="metres by which objects are moved at the start")
    parser.add_argument("--cameras", default="agentview", help="camera names, separated by commas")
    parser.add_argument("--image-size", type=int, default=256, help="pixels (LIBERO's own files have 128)")
    parser.add_argument("--compression", choices=COMPRESSIONS, default="lzf", help="of the pictures")
    parser.add_argument(
        "--max-steps", type=int, help="an episode is given up after so many steps (default: the suite's own limit)"
    )
    parser.add_argument(
        "--max-grasps", type=int, default=3, help="an episode is given up after so many attempts at one thing"
    )
    parser.add_argument("--seed", type=int, default=0, help="of noise, jitter and the poses of fixtures")
    parser.add_argument("--restart", action="store_true", help="throw away what is in the folder from earlier runs")


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _options(arguments: argparse.Namespace) -> RunOptions:
    for name in ("episodes_per_task", "num_workers", "image_size", "max_steps", "max_grasps"):
        if (getattr(arguments, name) or 0) < 1 and not (name == "max_steps" and arguments.max_steps is None):
            raise DemonstrationError(f"{_flag(name)} must be at least 1, given {getattr(arguments, name)}")
    for name in ("noise", "init_jitter", "seed"):
        if getattr(arguments, name) < 0:
            raise DemonstrationError(f"{_flag(name)} must not be negative, given {getattr(arguments, name)}")
    tasks = parse_numbers(arguments.tasks)
    suite = load_suite(arguments.suite)
    for task_id in tasks:
        suite.task(task_id)
    return RunOptions(
        suite=arguments.suite,
        tasks=tasks,
        episodes_per_task=arguments.episodes_per_task,
        seed=arguments.seed,
        init_indices=parse_numbers(arguments.init_range),
        cameras=tuple(arguments.cameras.split(",")),
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
    # One process per core: threads inside them would only get into each other's way. Inherited by the workers.
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ[variable] = "1"
    started = time.monotonic()
    try:
        options = _options(parsed)
        select_opengl()
        books = record(options, output=parsed.output, num_workers=parsed.num_workers, restart=parsed.restart)
    except ValueError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write(f"interrupted: the same command continues from what is in {parsed.output}\n")
        return 130
    seconds = time.monotonic() - started
    sys.stdout.write(_summary(books, seconds) + f"\nwritten to {parsed.output}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
