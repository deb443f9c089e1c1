"""Records demonstrations: a process pool makes the attempts, and what is on disk says which are still to be made."""

import dataclasses
import json
import logging
import math
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from libero_runtime.demos.episodes import run_episode
from libero_runtime.demos.hdf5 import demonstration_file, episode_lengths, write_file, write_shard
from libero_runtime.demos.plan import DemonstrationError, RunOptions, plan_attempt, wanted_attempts
from libero_runtime.demos.shards import Shards
from libero_runtime.paths import prepare_libero
from libero_runtime.render.devices import device_environment, drawing_devices
from libero_runtime.sim.scene import Scene
from libero_runtime.suites import load_suite, suite_asset_kind

logger = logging.getLogger(__name__)

_BLOCKS_PER_WORKER, _SMALLEST_BLOCK = 4, 4  # of attempts at one task, for which its scene is made once


@dataclass(frozen=True)
class TaskResult:
    """What a task's file holds: the steps of each demonstration, and how many attempts they took."""

    task_id: int
    num_attempts: int
    lengths: tuple[int, ...]


def _begin(devices: Sequence[int]) -> None:
    """Of a worker: Ctrl-C is for its parent to deal with, and it ends with that, however that ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    number = int(multiprocessing.current_process().name.rpartition("-")[2])
    os.environ.update(device_environment(number, devices))
    prepare_libero()


def _end_with_parent() -> None:
    """A pool's process would not notice that its parent was killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _make(options: RunOptions, shards: Shards, task_id: int, attempts: Sequence[int]) -> None:
    """A job of a worker: attempts at one task, each of which is kept, whether it succeeded or not."""
    task, cameras = load_suite(options.suite).task(task_id), options.cameras
    try:
        with closing(Scene(task, cameras=cameras, image_size=options.image_size)) as scene:
            for attempt in attempts:
                plan = plan_attempt(options, task_id, attempt)
                demo = run_episode(scene, plan, options.episode)
                path = shards.path(task_id, attempt, success=demo.success)
                if not demo.success:
                    path.touch()
                    continue
                partial = path.with_suffix(".partial")
                write_shard(partial, demo, plan, draw=scene.draw, cameras=cameras, compression=options.compression)
                partial.replace(path)
    except ValueError as error:  # the base of this package's errors: something its user can mend
        raise DemonstrationError(f"{options.suite} task {task_id}: {error}") from error


def record(options: RunOptions, *, output: Path, num_workers: int, restart: bool = False) -> list[TaskResult]:
    """Record all demonstrations and write the files.

    What an interrupted run with the same options finished is kept; `restart` throws it away.
    """
    suite = load_suite(options.suite)
    output.mkdir(parents=True, exist_ok=True)
    prepare_libero()  # makes the compact models once, before the workers look for them
    description = json.dumps({**dataclasses.asdict(options), "assets": suite_asset_kind(options.suite)})
    shards = Shards(output, description)
    files = {task_id: demonstration_file(output, suite.task(task_id)) for task_id in options.tasks}
    complete = {task_id for task_id, path in files.items() if path.is_file() and not restart}
    for task_id in complete:
        shards.check_complete(files[task_id])
    num_attempts = dict.fromkeys(complete, options.episodes_per_task)
    missing = sorted(files.keys() - complete)

    def write(task_id: int, attempts: Sequence[int]) -> None:
        parts = [shards.path(task_id, attempt) for attempt in attempts]
        spec, cameras, size = suite.task(task_id), options.cameras, options.image_size
        write_file(files[task_id], parts, spec, cameras=cameras, image_size=size, options=description)
        shards.clear(task_id)
        num_attempts[task_id] = attempts[-1] + 1
        missing.remove(task_id)

    if missing or shards.folder.is_dir():
        with shards.begun(restart=restart):
            with tqdm(total=len(files) * options.episodes_per_task, unit="demo") as bar:
                while missing:
                    before = {task_id: shards.made(task_id) for task_id in missing}
                    try:
                        with _pool(num_workers) as pool:
                            _record_tasks(missing, options, shards, pool, num_workers, bar, write)
                    except BrokenProcessPool as error:
                        if before == {task_id: shards.made(task_id) for task_id in missing}:
                            raise DemonstrationError("a process that records died before anything was made") from error
                        logger.warning("a process that records was killed; what it had not finished is made again")
            for task_id in files:  # attempts that were not needed, or of a run killed when a file was just written
                shards.clear(task_id)
    return [TaskResult(task_id, num_attempts[task_id], episode_lengths(path)) for task_id, path in files.items()]


@contextmanager
def _pool(num_workers: int) -> Iterator[ProcessPoolExecutor]:
    """Processes for ``_make``; they end at once, whatever they are at."""
    others, context = set(multiprocessing.active_children()), multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(num_workers, context, initializer=_begin, initargs=(drawing_devices(),))
    try:
        yield pool
    finally:
        for process in set(multiprocessing.active_children()) - others:
            process.kill()
        pool.shutdown(cancel_futures=True)


def _record_tasks(
    tasks: Sequence[int],
    options: RunOptions,
    shards: Shards,
    pool: ProcessPoolExecutor,
    num_workers: int,
    bar: tqdm,
    write: Callable[[int, Sequence[int]], None],
) -> None:
    """Have the missing attempts made, and write the file of each task that has all of its demonstrations."""
    num_left = sum(options.episodes_per_task - sum(shards.made(task_id).values()) for task_id in tasks)
    size = max(_SMALLEST_BLOCK, math.ceil(num_left / (_BLOCKS_PER_WORKER * num_workers)))
    jobs, given = set[Future[None]](), {task_id: set[int]() for task_id in tasks}
    while tasks:
        num_kept = bar.total - len(tasks) * options.episodes_per_task  # those of the other tasks
        for task_id in list(tasks):
            made = shards.made(task_id)
            wanted = wanted_attempts(task_id, made, options.episodes_per_task)
            pending = [attempt for attempt in wanted if attempt not in made]
            num_kept += len(wanted) - len(pending)
            if not pending:
                write(task_id, wanted)
            elif given[task_id] <= made.keys():  # in place of those that failed, when it is known how many did
                given[task_id].update(pending)
                blocks = [pending[start : start + size] for start in range(0, len(pending), size)]
                jobs |= {pool.submit(_make, options, shards, task_id, block) for block in blocks}
        bar.update(num_kept - bar.n)
        done, jobs = wait(jobs, timeout=1, return_when=FIRST_COMPLETED)
        for job in done:
            job.result()
