"""The vector env over processes: all cores, a device of its own for each worker, and a worker's death survived.

Where frames are drawn on a GPU, one process per core or two is fastest: every process draws for itself, so that drawing
does not wait for one thread. Same bits as `LiberoVectorEnv`.

B environments, C actions per chunk.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any, TypeVar

import numpy as np

from libero_runtime.paths import prepare_libero
from libero_runtime.render.devices import device_environment, drawing_devices
from libero_runtime.vector.base import BaseVectorEnv, Begin, Begun, Done, Job
from libero_runtime.vector.types import VectorEnvError, check_options

__all__ = ["LiberoProcessEnv"]

_Entry = TypeVar("_Entry", Begin, Job)


@dataclass(frozen=True)
class WorkerOptions:
    """What a worker makes its `LiberoVectorEnv` of."""

    num_envs: int
    cameras: tuple[str, ...]
    image_size: int
    look: str
    num_idle_steps: int
    max_scenes: int
    num_threads: int


def _serve(connection: Connection, options: WorkerOptions, environment: dict[str, str]) -> None:
    """A worker's life: calls of its vector env's `begin` and `advance`, until the other side hangs up."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    os.environ.update(environment)
    from libero_runtime.vector.env import LiberoVectorEnv

    env = LiberoVectorEnv(
        num_envs=options.num_envs,
        cameras=options.cameras,
        image_size=options.image_size,
        look=options.look,
        num_idle_steps=options.num_idle_steps,
        max_scenes=options.max_scenes,
        num_threads=options.num_threads,
    )
    methods: dict[str, Callable[..., Iterator[object]]] = {"reset": env.begin, "step_chunk": env.advance}
    while True:
        try:
            method, arguments = connection.recv()
        except (EOFError, OSError):
            return
        try:
            answer: object = list(methods[method](**arguments))
        except Exception as error:  # noqa: BLE001 - handed to the caller, who raises it
            answer = error
        connection.send(answer)


class _Worker:
    """One process and our end of its pipe.

    `answer_due`: it was called and its answer was not taken, because something (Ctrl-C) broke the call off. `torn`: the
    pipe may hold part of a message for the same reason, so that nothing can be made of what follows.
    """

    def __init__(self, number: int, options: WorkerOptions, environment: dict[str, str]) -> None:
        context = multiprocessing.get_context("spawn")
        self.number = number
        self.answer_due = self.torn = False
        self.connection, theirs = context.Pipe()
        self.process: SpawnProcess = context.Process(
            target=_serve, args=(theirs, options, environment), name=f"libero-worker-{number}", daemon=True
        )
        self.process.start()
        theirs.close()

    def send(self, method: str, arguments: dict[str, object]) -> None:
        """Call one of its methods; `receive` has the answer."""
        self.torn = True
        with contextlib.suppress(OSError):  # of a dead one: `receive` says so
            self.connection.send((method, arguments))
        self.answer_due, self.torn = True, False

    def receive(self) -> Any:
        """The answer, or None from a worker that died."""
        answer: object = None
        with contextlib.suppress(EOFError, OSError):
            self.connection.poll(None)  # the long wait, which may break off without harm
            self.torn = True
            answer = self.connection.recv()
        self.answer_due = self.torn = False
        return answer

    def cause_of_death(self) -> str:
        """How the process ended."""
        self.process.join(timeout=10)
        code = self.process.exitcode
        if code is not None and code < 0:
            return f"killed by {signal.Signals(-code).name}"
        return f"ended with exit code {code}"

    def stop(self) -> None:
        """End the process: it does so by itself when we hang up, if it can."""
        self.connection.close()
        self.process.join(timeout=10)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()


class LiberoProcessEnv(BaseVectorEnv):
    """`LiberoVectorEnv` (see there for options and methods) with its environments dealt to worker processes in blocks.

    Workers draw on the GPUs in turns (`drawing_devices`); a set MUJOCO_EGL_DEVICE_ID holds for all.

    When a worker dies it is started again at once; its episodes are lost, and the others have finished their call.
    `on_failure="raise"` then raises `ChunkError` or `StartError` naming the cause, environments, tasks and initial
    states; "freeze" reports it in `failures_B` until the environment is reset.

    After Ctrl-C in a call its environments have no episodes, which further calls say, until they are reset.
    """

    def __init__(
        self,
        *,
        num_envs: int,
        num_workers: int,
        cameras: Sequence[str] = ("agentview",),
        image_size: int = 256,
        look: str = "fast",
        num_idle_steps: int = 10,
        max_scenes: int = 10,
        num_threads: int = 1,
        on_failure: str = "raise",
    ) -> None:
        counts = {
            "num_envs": num_envs,
            "num_workers": num_workers,
            "image_size": image_size,
            "max_scenes": max_scenes,
            "num_threads": num_threads,
        }
        check_options(counts=counts, cameras=cameras, look=look, num_idle_steps=num_idle_steps, on_failure=on_failure)
        if num_workers > num_envs:
            raise VectorEnvError(f"num_workers={num_workers} must not be more than num_envs={num_envs}")
        super().__init__(num_envs=num_envs, cameras=cameras, image_size=image_size, on_failure=on_failure)
        self._blocks = [block.tolist() for block in np.array_split(np.arange(num_envs), num_workers)]
        self._worker_of = {env_id: number for number, block in enumerate(self._blocks) for env_id in block}
        self._options = [
            WorkerOptions(len(block), tuple(cameras), image_size, look, num_idle_steps, max_scenes, num_threads)
            for block in self._blocks
        ]
        devices = drawing_devices()
        prepare_libero()  # once, before the workers all do
        self._environments = [
            {"OMP_NUM_THREADS": "1", "LP_NUM_THREADS": "1"} | device_environment(number, devices)
            for number in range(num_workers)
        ]
        self._workers = [self._start_worker(number) for number in range(num_workers)]

    def _start_worker(self, number: int) -> _Worker:
        return _Worker(number, self._options[number], self._environments[number])

    # Episodes ---------------------------------------------------------------------------------------------------

    def begin(self, begins: Sequence[Begin]) -> Generator[Begun, None, None]:
        """As `LiberoVectorEnv.begin`; a worker that dies yields nothing."""
        calls: dict[int, dict[str, object]] = {
            number: {"begins": share} for number, share in self._deal(begins).items()
        }
        for number, answer in self._call("reset", calls):
            for begun in answer:
                yield replace(begun, env_id=self._blocks[number][begun.env_id])

    def advance(self, jobs: Sequence[Job], *, stop_on_success: bool) -> Generator[tuple[int, Done], None, None]:
        """As `LiberoVectorEnv.advance`; a worker that dies yields nothing."""
        calls: dict[int, dict[str, object]] = {
            number: {"jobs": share, "stop_on_success": stop_on_success} for number, share in self._deal(jobs).items()
        }
        for _, answer in self._call("step_chunk", calls):
            yield from answer

    def close(self) -> None:
        """End the workers; the object cannot be used afterwards. A second call does nothing."""
        super().close()
        while self._workers:
            self._workers[-1].stop()
            self._workers.pop()

    # Internals --------------------------------------------------------------------------------------------------

    def _deal(self, entries: Sequence[_Entry]) -> dict[int, list[_Entry]]:
        """Entries by worker, with the workers' own numbers of environments."""
        shares: dict[int, list[_Entry]] = {}
        for entry in entries:
            number = self._worker_of[entry.env_id]
            shares.setdefault(number, []).append(replace(entry, env_id=entry.env_id - self._blocks[number][0]))
        return shares

    def _call(self, method: str, arguments: dict[int, dict[str, object]]) -> Iterator[tuple[int, Any]]:
        """Workers with their answers. Every worker finishes; the dead are started again and leave no answer.

        An error of a worker (none that an episode could have) is raised when the others' answers are taken.
        """
        try:
            for number in arguments:
                self._clear_line(number)
            for number, call in arguments.items():
                self._workers[number].send(method, call)
            answers = {number: self._workers[number].receive() for number in arguments}
        except BaseException:  # Ctrl-C, as a rule; what the call was about is discarded by the caller
            for number in arguments:
                if self._workers[number].torn:
                    self._discard(self._blocks[number], f"a {method}() broke off and took its worker")
            raise
        errors: list[Exception] = []
        for number, answer in answers.items():
            if answer is None:
                self._bury(number, method)
            elif isinstance(answer, Exception):
                errors.append(answer)
            else:
                yield number, answer
        if errors:
            raise errors[0]

    def _clear_line(self, number: int) -> None:
        """Wait for the answer that a call left behind when it broke off, and drop it."""
        worker = self._workers[number]
        if worker.answer_due and not worker.torn:
            worker.receive()
        if worker.torn:
            worker.process.kill()
            worker.stop()
            self._workers[number] = self._start_worker(number)

    def _bury(self, number: int, method: str) -> None:
        worker = self._workers[number]
        cause = f"worker {number} (process {worker.process.pid}) {worker.cause_of_death()} in {method}"
        worker.stop()
        for env_id in self._blocks[number]:
            if self._starts[env_id] is not None:
                self._fail(env_id, f"{cause}; it is started again, the episode is lost")
        self._workers[number] = self._start_worker(number)
