"""Records demonstrations: one process per core, each of which keeps the scene of the task that it was at last."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from libero_runtime.demos.episodes import run_episode
from libero_runtime.demos.hdf5 import demonstration_file, episode_lengths, write_file, write_shard
from libero_runtime.demos.plan import DemonstrationError, Job, RunOptions, TaskProgress, Write, next_job
from libero_runtime.demos.shards import Shards
from libero_runtime.paths import prepare_libero
from libero_runtime.render.devices import device_environment, drawing_devices
from libero_runtime.sim.scene import Scene
from libero_runtime.suites import load_suite, suite_asset_kind
from libero_runtime.worker_process import WorkerProcess

logger = logging.getLogger(__name__)

_MAX_DEATHS = 3  # of processes in a row, or at the same job


@dataclass(frozen=True)
class TaskResult:
    """What a task's file holds: the steps of each demonstration, and how many attempts they took."""

    task_id: int
    num_attempts: int
    lengths: tuple[int, ...]


class Recorder:
    """What a worker's process keeps: the run, and the scene of its last attempt."""

    def __init__(self, options: RunOptions, output: Path, description: str) -> None:
        """description: of the run (JSON), kept in its files."""
        prepare_libero()
        self._options = options
        self._output = output
        self._description = description
        self._shards = Shards(output, description)
        self._scene: Scene | None = None

    def do(self, job: Job) -> bool:
        """Do a job; whether an attempt succeeded."""
        task, options = load_suite(self._options.suite).task(job.task_id), self._options
        if isinstance(job, Write):
            parts = [self._shards.path(job.task_id, attempt) for attempt in job.attempts]
            target = demonstration_file(self._output, task)
            cameras, size = options.cameras, options.image_size
            write_file(target, parts, task, cameras=cameras, image_size=size, options=self._description)
            return True
        if self._scene is None or self._scene.task != task:
            if self._scene is not None:
                self._scene.close()
            self._scene = Scene(task, cameras=options.cameras, image_size=options.image_size)
        demo = run_episode(self._scene, job, options.episode)
        path = self._shards.path(job.task_id, job.attempt, success=demo.success)
        if not demo.success:
            path.touch()
            return False
        partial, draw = path.with_suffix(".partial"), self._scene.draw
        write_shard(partial, demo, job, draw=draw, cameras=options.cameras, compression=options.compression)
        partial.replace(path)
        return True


class _Worker:
    """A process that draws on one device; one that died is replaced."""

    def __init__(self, environment: Mapping[str, str], *run: object) -> None:
        self._environment, self._run = environment, run
        self.scene: int | None = None  # the task whose scene it has
        self.start()

    def start(self) -> None:
        """Start a process."""
        self.process = WorkerProcess(Recorder, *self._run, environment=self._environment)

    def submit(self, job: Job) -> Future[bool]:
        """Begin a job."""
        if not isinstance(job, Write):
            self.scene = job.task_id
        return self.process.submit("do", job)

    def replace(self) -> str:
        """Start the process anew; how it ended."""
        cause = self.process.cause_of_death()
        self.process.end()
        self.start()
        return cause


def record(
    options: RunOptions, *, output: Path, num_workers: int, show_progress: bool = True, restart: bool = False
) -> list[TaskResult]:
    """Record all demonstrations and write the files.

    What an interrupted run with the same options finished is kept; `restart` throws it away.
    """
    suite = load_suite(options.suite)
    if output.exists() and not output.is_dir():
        raise DemonstrationError(f"{output} is a file; give a folder for the demonstrations")
    output.mkdir(parents=True, exist_ok=True)
    prepare_libero()  # makes the compact models once, before the workers look for them
    description = json.dumps({**dataclasses.asdict(options), "assets": suite_asset_kind(options.suite)})
    shards = Shards(output, description)
    files = {task_id: demonstration_file(output, suite.task(task_id)) for task_id in options.tasks}
    complete = {task_id for task_id, path in files.items() if path.is_file() and not restart}
    for task_id in complete:
        shards.check_complete(files[task_id])
    num_attempts = dict.fromkeys(complete, options.episodes_per_task)
    if len(complete) < len(files) or shards.folder.is_dir():
        with shards.begun(restart=restart):
            tasks = [
                TaskProgress(task_id, options.episodes_per_task, shards.made(task_id))
                for task_id in sorted(files.keys() - complete)
            ]
            num_done = len(complete) * options.episodes_per_task
            total = len(files) * options.episodes_per_task
            devices = drawing_devices()
            num_workers = min(num_workers, sum(max(1, len(task.pending)) for task in tasks))
            workers = [
                _Worker(device_environment(number, devices), options, output, description)
                for number in range(num_workers)
            ]
            try:
                with tqdm(total=total, initial=num_done, unit="demo", disable=not show_progress) as bar:
                    _record_tasks(tasks, options, workers, shards, bar)
            finally:
                for worker in workers:
                    worker.process.end()
            for task_id in files:  # attempts that were not needed, or of a run killed when a file was just written
                shards.clear(task_id)
            num_attempts |= {task.task_id: task.wanted[-1] + 1 for task in tasks}
    return [TaskResult(task_id, num_attempts[task_id], episode_lengths(path)) for task_id, path in files.items()]


def _record_tasks(
    tasks: Sequence[TaskProgress], options: RunOptions, workers: Sequence[_Worker], shards: Shards, bar: tqdm
) -> None:
    """Have the missing attempts made and the files written."""
    first = bar.n
    by_id = {task.task_id: task for task in tasks}
    deaths_in_a_row, deaths_at = 0, Counter[Job]()
    idle, running = list(workers), dict[Future[bool], tuple[_Worker, Job]]()
    while not all(task.is_written for task in tasks):
        bar.update(first + sum(task.num_kept for task in tasks) - bar.n)
        for worker in list(idle):
            scenes = Counter(each.scene for each in workers if each.scene is not None)
            job = next_job(options, tasks, worker.scene, scenes)
            if job is not None:
                idle.remove(worker)
                running[worker.submit(job)] = worker, job
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            worker, job = running.pop(future)
            idle.append(worker)
            task = by_id[job.task_id]
            try:
                success = future.result()
            except BrokenProcessPool as error:
                task.forget(job)
                deaths_in_a_row += 1
                deaths_at[job] += 1
                message = f"the process of {_name(options, job)} {worker.replace()}"
                if max(deaths_in_a_row, deaths_at[job]) >= _MAX_DEATHS:
                    raise DemonstrationError(f"{message}; after {_MAX_DEATHS} such ends: giving up") from error
                logger.warning("%s; another one does it again", message)
            except ValueError as error:  # the base of this package's errors: something its user can mend
                raise DemonstrationError(f"{_name(options, job)}: {error}") from error
            else:
                deaths_in_a_row = 0
                task.finish(job, success=success)
                if task.is_written:
                    shards.clear(task.task_id)
    bar.update(first + sum(task.num_kept for task in tasks) - bar.n)


def _name(options: RunOptions, job: Job) -> str:
    task = f"{options.suite} task {job.task_id}"
    if isinstance(job, Write):
        return f"{task}, writing its file"
    return f"{task}, attempt {job.attempt} from initial state {job.init_index}"
