"""Records demonstrations: one process per core, each of which keeps the scene of the task that it was at last."""

import dataclasses
import json
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from libero_runtime.demos.episodes import EpisodePlan, run_episode
from libero_runtime.demos.hdf5 import demonstration_file, episode_lengths, write_file, write_shard
from libero_runtime.demos.plan import DemonstrationError, RunOptions, TaskProgress, next_attempt
from libero_runtime.demos.shards import Shards
from libero_runtime.paths import prepare_libero
from libero_runtime.render.devices import device_environment, drawing_devices
from libero_runtime.sim.scene import Scene
from libero_runtime.suites import load_suite, suite_asset_kind
from libero_runtime.worker_process import WorkerProcess

logger = logging.getLogger(__name__)

_MAX_DEATHS = 3  # of processes in a row, or at the same attempt


@dataclass(frozen=True)
class TaskResult:
    """What a task's file holds: the steps of each demonstration, and how many attempts they took."""

    task_id: int
    num_attempts: int
    lengths: tuple[int, ...]


class Recorder:
    """What a worker's process keeps: the run, and the scene of its last attempt."""

    def __init__(self, options: RunOptions, shards: Shards) -> None:
        prepare_libero()
        self._options, self._shards = options, shards
        self._scene: Scene | None = None

    def attempt(self, plan: EpisodePlan) -> bool:
        """Make an attempt and keep it; whether it succeeded."""
        task, options = load_suite(self._options.suite).task(plan.task_id), self._options
        if self._scene is None or self._scene.task != task:
            if self._scene is not None:
                self._scene.close()
            self._scene = Scene(task, cameras=options.cameras, image_size=options.image_size)
        demo = run_episode(self._scene, plan, options.episode)
        path = self._shards.path(plan.task_id, plan.attempt, success=demo.success)
        if not demo.success:
            path.touch()
            return False
        partial, draw = path.with_suffix(".partial"), self._scene.draw
        write_shard(partial, demo, plan, draw=draw, cameras=options.cameras, compression=options.compression)
        partial.replace(path)
        return True


def record(options: RunOptions, *, output: Path, num_workers: int, restart: bool = False) -> list[TaskResult]:
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

    def write(task: TaskProgress) -> None:
        parts = [shards.path(task.task_id, attempt) for attempt in task.wanted]
        spec, cameras, size = suite.task(task.task_id), options.cameras, options.image_size
        write_file(files[task.task_id], parts, spec, cameras=cameras, image_size=size, options=description)
        shards.clear(task.task_id)
        num_attempts[task.task_id] = task.wanted[-1] + 1

    if len(complete) < len(files) or shards.folder.is_dir():
        with shards.begun(restart=restart):
            tasks = [
                TaskProgress(task_id, options.episodes_per_task, shards.made(task_id))
                for task_id in sorted(files.keys() - complete)
            ]
            num_done = len(complete) * options.episodes_per_task
            devices = drawing_devices()
            num_workers = min(num_workers, sum(len(task.pending) for task in tasks))
            workers = [
                WorkerProcess(Recorder, options, shards, environment=device_environment(number, devices))
                for number in range(num_workers)
            ]
            try:
                with tqdm(total=len(files) * options.episodes_per_task, initial=num_done, unit="demo") as bar:
                    _record_tasks(tasks, options, workers, bar, write)
            finally:
                for worker in workers:
                    worker.end()
            for task_id in files:  # attempts that were not needed, or of a run killed when a file was just written
                shards.clear(task_id)
    return [TaskResult(task_id, num_attempts[task_id], episode_lengths(path)) for task_id, path in files.items()]


def _record_tasks(
    tasks: Sequence[TaskProgress],
    options: RunOptions,
    workers: Sequence[WorkerProcess],
    bar: tqdm,
    write: Callable[[TaskProgress], None],
) -> None:
    """Have the missing attempts made, and write the file of each task that has all of its demonstrations."""
    first = bar.n
    by_id, unwritten = {task.task_id: task for task in tasks}, list(tasks)
    deaths_in_a_row, deaths_at = 0, Counter[EpisodePlan]()
    idle, running = list(workers), dict[Future[bool], tuple[WorkerProcess, EpisodePlan]]()
    scenes: dict[WorkerProcess, int] = {}  # the task whose scene each has
    while unwritten:
        for worker in list(idle):
            plan = next_attempt(options, tasks, scenes.get(worker), Counter(scenes.values()))
            if plan is not None:
                idle.remove(worker)
                scenes[worker] = plan.task_id
                running[worker.submit("attempt", plan)] = worker, plan
        for task in [task for task in unwritten if task.is_complete]:
            write(task)
            unwritten.remove(task)
        for future in wait(running, return_when=FIRST_COMPLETED).done:
            worker, plan = running.pop(future)
            idle.append(worker)
            task = by_id[plan.task_id]
            try:
                success = future.result()
            except BrokenProcessPool as error:
                task.running.discard(plan.attempt)
                deaths_in_a_row += 1
                deaths_at[plan] += 1
                message = f"{_name(options, plan)}: {worker.replace()}"
                if max(deaths_in_a_row, deaths_at[plan]) >= _MAX_DEATHS:
                    raise DemonstrationError(f"{message}; after {_MAX_DEATHS} such ends: giving up") from error
                logger.warning("%s; another one does it again", message)
            except ValueError as error:  # the base of this package's errors: something its user can mend
                raise DemonstrationError(f"{_name(options, plan)}: {error}") from error
            else:
                deaths_in_a_row = 0
                task.finish(plan.attempt, success=success)
        bar.update(first + sum(task.num_kept for task in tasks) - bar.n)


def _name(options: RunOptions, plan: EpisodePlan) -> str:
    return f"{options.suite} task {plan.task_id}, attempt {plan.attempt} from initial state {plan.init_index}"
