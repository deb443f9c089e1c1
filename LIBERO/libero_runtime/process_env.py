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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from typing import Any

import numpy as np
from numpy.typing import NDArray

from libero_runtime.opengl import num_egl_devices, select_opengl, worker_environment
from libero_runtime.paths import prepare_libero
from libero_runtime.slots import SimulationError
from libero_runtime.suites import load_suite
from libero_runtime.vector_face import (
    ChunkResult,
    EpisodeStart,
    Frames,
    VectorEnvError,
    VectorFace,
    check_options,
)

__all__ = ["LiberoProcessEnv"]


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
    """A worker's life: calls of its vector env's methods, in turn, until the other side hangs up."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    os.environ.update(environment)
    from libero_runtime.vector_env import LiberoVectorEnv

    env = LiberoVectorEnv(
        num_envs=options.num_envs,
        cameras=options.cameras,
        image_size=options.image_size,
        look=options.look,
        num_idle_steps=options.num_idle_steps,
        max_scenes=options.max_scenes,
        num_threads=options.num_threads,
        on_failure="freeze",
    )
    methods: dict[str, Callable[..., object]] = {"reset": env.reset, "step_chunk": env.step_chunk}
    while True:
        try:
            method, arguments = connection.recv()
        except (EOFError, OSError):
            return
        try:
            answer: object = methods[method](**arguments)
        except Exception as error:  # noqa: BLE001 - handed to the caller, who raises it
            answer = error
        connection.send(answer)


class _Worker:
    """One process and our end of its pipe."""

    def __init__(self, number: int, options: WorkerOptions, environment: dict[str, str]) -> None:
        context = multiprocessing.get_context("spawn")
        self.number = number
        self.connection, theirs = context.Pipe()
        self.process: SpawnProcess = context.Process(
            target=_serve, args=(theirs, options, environment), name=f"libero-worker-{number}", daemon=True
        )
        self.process.start()
        theirs.close()

    def send(self, method: str, arguments: dict[str, object]) -> None:
        with contextlib.suppress(OSError):  # of a dead one: `receive` says so
            self.connection.send((method, arguments))

    def receive(self) -> Any:
        """The answer, or None from a worker that died."""
        try:
            return self.connection.recv()
        except (EOFError, OSError):
            return None

    def cause_of_death(self) -> str:
        self.process.join(timeout=10)
        code = self.process.exitcode
        if code is not None and code < 0:
            return f"killed by {signal.Signals(-code).name}"
        return f"ended with exit code {code}"

    def stop(self) -> None:
        self.connection.close()
        self.process.join(timeout=10)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()


class LiberoProcessEnv(VectorFace):
    """`LiberoVectorEnv` (see there for options and methods) with its environments dealt to worker processes in blocks.

    Workers draw on EGL devices in turns (`opengl.worker_environment`); a set MUJOCO_EGL_DEVICE_ID holds for all.

    When a worker dies it is started again at once; its episodes are lost, and the others have finished their call.
    `on_failure="raise"` then raises `SimulationError` naming the cause, environments, tasks and initial states;
    "freeze" reports it in `ChunkResult.failures_B` until the environment is reset.
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
        super().__init__(num_envs=num_envs, cameras=cameras, image_size=image_size)
        self._on_failure = on_failure
        self._blocks = [block.tolist() for block in np.array_split(np.arange(num_envs), num_workers)]
        self._worker_of = {env_id: number for number, block in enumerate(self._blocks) for env_id in block}
        self._options = [
            WorkerOptions(len(block), tuple(cameras), image_size, look, num_idle_steps, max_scenes, num_threads)
            for block in self._blocks
        ]
        self._starts: list[EpisodeStart | None] = [None] * num_envs
        self._failures: list[str | None] = [None] * num_envs
        self._success_B = np.zeros(num_envs, dtype=bool)
        num_devices = max(1, num_egl_devices()) if select_opengl() == "egl" else 1
        prepare_libero()  # once, before the workers all do
        self._environments = [
            {"OMP_NUM_THREADS": "1", "LP_NUM_THREADS": "1"} | worker_environment(number, num_devices=num_devices)
            for number in range(num_workers)
        ]
        self._workers = [self._start(number) for number in range(num_workers)]

    def _start(self, number: int) -> _Worker:
        return _Worker(number, self._options[number], self._environments[number])

    def describe(self, env_id: int) -> str:
        """An environment with what it is at, for messages."""
        start = self._starts[env_id]
        if start is None:
            return f"environment {env_id}"
        at = f"{start.suite} task {start.task_id}, initial state {start.init_index}, seed {start.seed}"
        return f"environment {env_id} ({at})"

    # Episodes ---------------------------------------------------------------------------------------------------

    def reset(self, starts: Sequence[EpisodeStart], env_ids: Sequence[int] | None = None) -> Frames:
        """As `LiberoVectorEnv.reset`."""
        ids = self._check_ids(env_ids)
        self._check_starts(starts, len(ids))
        for env_id, start in zip(ids, starts, strict=True):
            self._starts[env_id], self._failures[env_id], self._success_B[env_id] = start, None, False
        shares = self._deal(ids)
        answers = self._call("reset", {
            number: {"starts": [starts[row] for row in rows], "env_ids": self._local(ids, rows)}
            for number, rows in shares.items()
        })  # fmt: skip
        for number, frames in answers.items():
            self._keep(frames, ids, shares[number])
        self._raise_failures(ids)
        return self._frames(ids)

    def step_chunk(
        self,
        actions_BCA: NDArray[np.float32],
        env_ids: Sequence[int] | None = None,
        *,
        stop_on_success: bool = True,
        max_steps_B: Sequence[int] | None = None,
        record_every: int = 0,
    ) -> ChunkResult:
        """As `LiberoVectorEnv.step_chunk`."""
        ids = self._check_ids(env_ids)
        actions = self._check_actions(actions_BCA, ids)
        limits = self._check_limits(max_steps_B, len(ids), actions.shape[1])
        for env_id in ids:
            if self._starts[env_id] is None:
                raise VectorEnvError(f"environment {env_id} has no episode: call reset() for it first")
        success_BC = np.repeat(self._success_B[ids][:, None], actions.shape[1], axis=1)
        num_steps_B = np.zeros(len(ids), dtype=np.int64)
        recorded: tuple[NDArray[np.uint8], ...] = ()
        shares = self._deal([env_id for env_id in ids if self._failures[env_id] is None], rows_of=ids)
        answers = self._call("step_chunk", {
            number: {
                "actions_BCA": actions[rows],
                "env_ids": self._local(ids, rows),
                "stop_on_success": stop_on_success,
                "max_steps_B": [limits[row] for row in rows],
                "record_every": record_every if rows[0] == 0 else 0,
            }
            for number, rows in shares.items()
        })  # fmt: skip
        for number, result in answers.items():
            rows = shares[number]
            self._keep(result.frames, ids, rows)
            success_BC[rows], num_steps_B[rows] = result.success_BC, result.num_steps_B
            recorded = recorded or result.recorded
            for row, failure in zip(rows, result.failures_B, strict=True):
                self._success_B[ids[row]] = result.success_BC[rows.index(row), -1]
                if failure is not None:
                    self._failures[ids[row]] = failure.partition(": ")[2]  # the worker numbers environments by itself
        failures = self._raise_failures(ids)
        return ChunkResult(
            frames=self._frames(ids),
            success_BC=success_BC,
            num_steps_B=num_steps_B,
            recorded=recorded,
            failures_B=failures,
        )

    def close(self) -> None:
        """End the workers; the object cannot be used afterwards."""
        for worker in self._workers:
            worker.stop()
        self._workers = []

    # Internals --------------------------------------------------------------------------------------------------

    def _deal(self, ids: Sequence[int], *, rows_of: Sequence[int] | None = None) -> dict[int, list[int]]:
        """Rows of a call by worker."""
        shares: dict[int, list[int]] = {}
        wanted = set(ids)
        for row, env_id in enumerate(ids if rows_of is None else rows_of):
            if env_id in wanted:
                shares.setdefault(self._worker_of[env_id], []).append(row)
        return shares

    def _local(self, ids: Sequence[int], rows: Sequence[int]) -> list[int]:
        """The workers' own numbers of environments."""
        return [ids[row] - self._blocks[self._worker_of[ids[row]]][0] for row in rows]

    def _call(self, method: str, arguments: dict[int, dict[str, object]]) -> dict[int, Any]:
        """Answers by worker. Every worker finishes; the dead are started again and leave no answer."""
        for number, call in arguments.items():
            self._workers[number].send(method, call)
        answers = {number: self._workers[number].receive() for number in arguments}
        for number in [number for number, answer in answers.items() if answer is None]:
            del answers[number]
            self._bury(number, method)
        for answer in answers.values():
            if isinstance(answer, Exception):
                raise answer
        return answers

    def _bury(self, number: int, method: str) -> None:
        worker = self._workers[number]
        cause = f"worker {number} (process {worker.process.pid}) {worker.cause_of_death()} in {method}"
        worker.stop()
        for env_id in self._blocks[number]:
            if self._starts[env_id] is not None:
                self._failures[env_id] = f"{cause}; it is started again, the episode is lost"
        self._workers[number] = self._start(number)

    def _keep(self, frames: Frames, ids: Sequence[int], rows: Sequence[int]) -> None:
        own = [ids[row] for row in rows]
        self._images_BNHWC[own], self._proprio_BP[own] = frames.images_BNHWC, frames.proprio_BP

    def _raise_failures(self, ids: Sequence[int]) -> tuple[str | None, ...]:
        failed = {env_id: failure for env_id, failure in enumerate(self._failures) if failure is not None}
        texts = {env_id: f"{self.describe(env_id)}: {failure}" for env_id, failure in failed.items()}
        if self._on_failure == "raise" and texts:
            for env_id in failed:
                self._starts[env_id] = self._failures[env_id] = None
            raise SimulationError("; ".join(texts.values()))
        return tuple(texts.get(env_id) for env_id in ids)

    def _frames(self, ids: list[int]) -> Frames:
        languages = []
        for env_id in ids:
            start = self._starts[env_id]
            languages.append("" if start is None else load_suite(start.suite).task(start.task_id).language)
        return Frames(self._images_BNHWC[ids], self._proprio_BP[ids], tuple(languages))
