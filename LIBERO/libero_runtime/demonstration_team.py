"""The processes that record demonstrations: what one does with a job, and how they are kept busy and alive."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from libero_runtime.demonstration_parts import Parts
from libero_runtime.demonstration_plan import DemonstrationError, EpisodeReport, Merge, RunOptions
from libero_runtime.demos.episodes import EpisodePlan, run_episode
from libero_runtime.demos.hdf5 import add_parts, complete_file, demonstration_file, write_part
from libero_runtime.drawing_devices import device_environment, drawing_devices
from libero_runtime.paths import prepare_libero
from libero_runtime.scene import Scene
from libero_runtime.suites import load_suite

logger = logging.getLogger(__name__)

Job = EpisodePlan | Merge
_MAX_DEATHS = 3  # in a row, or at the same job


@dataclass(frozen=True)
class Workshop:
    """What all workers of a run share."""

    options: RunOptions
    parts: Parts
    output: Path
    description: str  # of the run, kept in its files


@dataclass(frozen=True)
class _Refusal:
    """What a worker answers when a job cannot be done as it was asked for."""

    message: str


class _Recorder:
    """A worker's own: it keeps the scene of its last attempt."""

    def __init__(self, workshop: Workshop) -> None:
        self._workshop = workshop
        self._suite = load_suite(workshop.options.suite)
        self._scene: Scene | None = None

    def do(self, job: Job) -> EpisodeReport | Merge:
        return self._merge(job) if isinstance(job, Merge) else self._attempt(job)

    def _merge(self, merge: Merge) -> Merge:
        """Continue a task's file."""
        shop, task = self._workshop, self._suite.task(merge.task_id)
        target = demonstration_file(shop.output, task)
        parts = [shop.parts.path(merge.task_id, attempt) for attempt in merge.attempts]
        add_parts(target, parts, first=merge.first)
        if merge.last:
            complete_file(
                target,
                task,
                cameras=shop.options.cameras,
                image_size=shop.options.image_size,
                options=shop.description,
            )
        return merge

    def _attempt(self, plan: EpisodePlan) -> EpisodeReport:
        """Run an attempt; draw and store it if it succeeds."""
        options, scene = self._workshop.options, self._scene_of(plan.task_id)
        demo = run_episode(scene, plan, options.episode)
        if demo.success:
            path = self._workshop.parts.path(plan.task_id, plan.attempt)
            partial = path.with_suffix(".partial")
            write_part(partial, demo, plan, draw=scene.draw, cameras=options.cameras, compression=options.compression)
            partial.replace(path)
        return EpisodeReport(plan.task_id, plan.attempt, demo.success, len(demo.actions_TA))

    def _scene_of(self, task_id: int) -> Scene:
        if self._scene is None or self._scene.task.task_id != task_id:
            if self._scene is not None:
                self._scene.close()
            options = self._workshop.options
            self._scene = Scene(self._suite.task(task_id), cameras=options.cameras, image_size=options.image_size)
        return self._scene

    def close(self) -> None:
        if self._scene is not None:
            self._scene.close()


def _work(connection: Connection, workshop: Workshop, environment: dict[str, str]) -> None:
    """Do jobs as they are asked for."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interruption is the main process's to deal with
    os.environ.update(environment)
    prepare_libero()
    recorder = _Recorder(workshop)
    while True:
        job: Job | None = connection.recv()
        if job is None:
            break
        try:
            connection.send(recorder.do(job))
        except ValueError as error:  # the base of this package's errors: something its user can mend
            connection.send(_Refusal(str(error)))
    recorder.close()


@dataclass
class Worker:
    """The main process's end of a worker."""

    number: int
    process: BaseProcess
    connection: Connection
    job: Job | None = None  # what it is at
    task_id: int | None = None  # the task whose scene it has


class Team:
    """A fixed number of worker processes, spread over the devices that draw; one that dies is replaced."""

    def __init__(self, num_workers: int, workshop: Workshop) -> None:
        self._context = multiprocessing.get_context("spawn")
        self._workshop = workshop
        self._devices = drawing_devices()
        self._deaths_in_a_row = 0
        self._deaths_at: Counter[Job] = Counter()
        self._workers = [self._start(number) for number in range(num_workers)]

    def _start(self, number: int) -> Worker:
        ours, theirs = self._context.Pipe()
        environment = device_environment(number, self._devices)
        process = self._context.Process(target=_work, args=(theirs, self._workshop, environment), daemon=True)
        process.start()
        theirs.close()
        return Worker(number, process, ours)

    def idle(self) -> list[Worker]:
        """Workers without a job."""
        return [worker for worker in self._workers if worker.job is None]

    def num_workers_by_task(self) -> Counter[int]:
        """How many have the scene of each task."""
        return Counter(worker.task_id for worker in self._workers if worker.task_id is not None)

    def assign(self, worker: Worker, job: Job) -> None:
        """Give an idle worker something to do."""
        worker.job = job
        if isinstance(job, EpisodePlan):
            worker.task_id = job.task_id
        # A worker that has just died is noticed when its answer is awaited.
        with contextlib.suppress(BrokenPipeError):
            worker.connection.send(job)

    def answers(self) -> Iterator[tuple[Job, EpisodeReport | Merge | None]]:
        """Wait for at least one worker; None is the answer of one that died.

        Raises:
            DemonstrationError: a job cannot be done as it was asked for, or worker after worker dies.
        """
        busy = [(worker, worker.job) for worker in self._workers if worker.job is not None]
        ready = wait([worker.connection for worker, _ in busy])
        for worker, job in busy:
            if worker.connection not in ready:
                continue
            worker.job = None
            answer: EpisodeReport | Merge | _Refusal | None = None
            try:
                answer = worker.connection.recv()
                self._deaths_in_a_row = 0
            except (EOFError, ConnectionResetError):
                self._replace(worker, job)
            if isinstance(answer, _Refusal):
                raise DemonstrationError(f"{self._name(job)}: {answer.message}")
            yield job, answer

    def _replace(self, worker: Worker, job: Job) -> None:
        worker.process.join()
        self._deaths_in_a_row += 1
        self._deaths_at[job] += 1
        code = worker.process.exitcode or 0
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}, its error is above"
        message = f"the process of {self._name(job)} {how}"
        if max(self._deaths_in_a_row, self._deaths_at[job]) >= _MAX_DEATHS:
            raise DemonstrationError(f"{message}; after {_MAX_DEATHS} such ends: giving up")
        logger.warning("%s; another one does it again", message)
        self._workers[self._workers.index(worker)] = self._start(worker.number)

    def _name(self, job: Job) -> str:
        task = f"{self._workshop.options.suite} task {job.task_id}"
        if isinstance(job, Merge):
            return f"{task}, writing its file"
        return f"{task}, attempt {job.attempt} from initial state {job.init_index}"

    def close(self) -> None:
        """Let idle workers finish; end those still at a job."""
        for worker in self._workers:
            if worker.job is None and worker.process.is_alive():
                with contextlib.suppress(BrokenPipeError):
                    worker.connection.send(None)
            else:
                worker.process.terminate()
        for worker in self._workers:
            worker.process.join()
