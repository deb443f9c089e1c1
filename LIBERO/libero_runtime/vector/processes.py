"""The vector env over processes: all cores, a device of its own for each worker, and a worker's death survived.

Where frames are drawn on a GPU, one process per core or two is fastest: every process draws for itself, so that drawing
does not wait for one thread. Same bits as `LiberoVectorEnv`.

B environments, C actions per chunk.
"""

from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import wait
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from typing import Any, TypeVar

import numpy as np

from libero_runtime.paths import prepare_libero
from libero_runtime.render.devices import device_environment, drawing_devices
from libero_runtime.vector.base import BaseVectorEnv
from libero_runtime.vector.env import LiberoVectorEnv
from libero_runtime.vector.types import EpisodeStart, Job, Outcome, VectorEnvError
from libero_runtime.worker_process import WorkerProcess

__all__ = ["LiberoProcessEnv"]

_Entry = TypeVar("_Entry")


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
        quality: str = "fast",
        num_idle_steps: int = 10,
        max_scenes: int = 10,
        num_threads: int = 1,
        on_failure: str = "raise",
    ) -> None:
        options: dict[str, Any] = {
            "cameras": tuple(cameras),
            "image_size": image_size,
            "quality": quality,
            "num_idle_steps": num_idle_steps,
            "max_scenes": max_scenes,
            "num_threads": num_threads,
        }
        super().__init__(num_envs=num_envs, num_workers=num_workers, on_failure=on_failure, **options)
        if num_workers > num_envs:
            raise VectorEnvError(f"num_workers={num_workers} must not be more than num_envs={num_envs}")
        self._blocks = [block.tolist() for block in np.array_split(np.arange(num_envs), num_workers)]
        self._worker_of = {env_id: number for number, block in enumerate(self._blocks) for env_id in block}
        devices = drawing_devices()
        prepare_libero()  # once, before the workers all do
        self._workers = [
            WorkerProcess(
                partial(LiberoVectorEnv, num_envs=len(block), **options),
                environment={"OMP_NUM_THREADS": "1", "LP_NUM_THREADS": "1"} | device_environment(number, devices),
            )
            for number, block in enumerate(self._blocks)
        ]

    # Episodes ---------------------------------------------------------------------------------------------------

    def begin(self, starts: Mapping[int, EpisodeStart]) -> Generator[tuple[int, Outcome], None, None]:
        """As `LiberoVectorEnv.begin`; a worker that dies yields nothing."""
        yield from self._call("reset", "begin", starts)

    def advance(self, jobs: Mapping[int, Job], stop_on_success: bool) -> Generator[tuple[int, Outcome], None, None]:
        """As `LiberoVectorEnv.advance`; a worker that dies yields nothing."""
        yield from self._call("step_chunk", "advance", jobs, stop_on_success)

    def close(self) -> None:
        """End the workers; the object cannot be used afterwards. A second call does nothing."""
        super().close()
        while self._workers:
            self._workers.pop().end()

    # Internals --------------------------------------------------------------------------------------------------

    def _call(
        self, call: str, method: str, entries: Mapping[int, _Entry], *arguments: object
    ) -> Generator[tuple[int, Outcome], None, None]:
        """Deal entries by environment to the workers. All finish; the dead are started again and leave no answer.

        An error of a worker (none that an episode could have) is raised when the others' answers are taken. After
        Ctrl-C workers finish what they are at before the next call, and nobody hears of it.
        """
        shares: dict[int, dict[int, _Entry]] = {}  # with the workers' own numbers of environments
        for env_id, entry in entries.items():
            number = self._worker_of[env_id]
            shares.setdefault(number, {})[env_id - self._blocks[number][0]] = entry
        calls = {number: self._workers[number].submit(method, share, *arguments) for number, share in shares.items()}
        wait(calls.values())
        errors: list[BaseException] = []
        for number, answer in calls.items():
            error = answer.exception()
            if isinstance(error, BrokenProcessPool):
                self._bury(number, call)
            elif error is not None:
                errors.append(error)
            else:
                yield from ((self._blocks[number][env_id], outcome) for env_id, outcome in answer.result())
        if errors:
            raise errors[0]

    def _bury(self, number: int, call: str) -> None:
        cause = f"worker {number}, {self._workers[number].replace()} in {call}"
        for env_id in self._blocks[number]:
            if isinstance(self._starts[env_id], EpisodeStart):
                self._fail(env_id, f"{cause}; it is started again, the episode is lost")
