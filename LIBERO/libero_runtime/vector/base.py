"""What vector environments do alike, whether they simulate here (`env`) or in workers (`processes`).

B environments, C actions per chunk, A action dimensions, N cameras, H and W pixels.
"""

from abc import ABC, abstractmethod
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import Any, ClassVar

import numpy as np
from gymnasium import spaces
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from libero_runtime.kernel import ACTION_DIM
from libero_runtime.paths import QUALITIES
from libero_runtime.sim.state import PROPRIO_DIM, View
from libero_runtime.vector.types import (
    ChunkError,
    ChunkResult,
    EpisodeStart,
    Frames,
    Job,
    Outcome,
    StartError,
    VectorEnvError,
    task_of,
)

_ON_FAILURE = ("raise", "freeze")


class BaseVectorEnv(ABC):
    """B episodes: where each one is and what was seen of it last. How they run is `begin` and `advance`.

    Its spaces are in Gymnasium's vocabulary, and its checks of arguments name what is wrong.
    """

    metadata: ClassVar[dict[str, Any]] = {
        "autoreset_mode": AutoresetMode.DISABLED,
        "render_modes": ["rgb_array"],
        "render_fps": 20,
    }
    render_mode = "rgb_array"

    def __init__(
        self,
        *,
        num_envs: int,
        cameras: Sequence[str],
        image_size: int,
        quality: str,
        num_idle_steps: int,
        max_scenes: int,
        num_threads: int,
        on_failure: str,
        num_workers: int = 1,
    ) -> None:
        counts = {"num_envs": num_envs, "image_size": image_size, "max_scenes": max_scenes, "num_threads": num_threads}
        for name, value in {**counts, "num_workers": num_workers}.items():
            if value < 1:
                raise VectorEnvError(f"{name}={value} must be at least 1")
        if num_idle_steps < 0:
            raise VectorEnvError(f"num_idle_steps={num_idle_steps} must not be negative")
        if quality not in QUALITIES:
            raise VectorEnvError(f"quality={quality!r} must be one of {', '.join(QUALITIES)}")
        if on_failure not in _ON_FAILURE:
            raise VectorEnvError(f"on_failure={on_failure!r} must be one of {', '.join(_ON_FAILURE)}")
        if not cameras or isinstance(cameras, str):
            raise VectorEnvError(f"cameras={cameras!r} must be a non-empty sequence of camera names")
        self.num_envs = num_envs
        self._cameras = tuple(cameras)
        self._image_size = image_size
        # Of one action (7,): six OSC deltas, and the gripper, -1 open, +1 close; `step_chunk` takes C of them.
        self.single_action_space = spaces.Box(-1.0, 1.0, (ACTION_DIM,), np.float32)
        # Of one environment's row of `Frames.observation()`.
        self.single_observation_space = spaces.Dict(
            {
                "images": spaces.Box(0, 255, (len(self._cameras), image_size, image_size, 3), np.uint8),
                "proprio": spaces.Box(-np.inf, np.inf, (PROPRIO_DIM,), np.float32),
            }
        )
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self._images_BNHWC = np.zeros((num_envs, len(cameras), image_size, image_size, 3), dtype=np.uint8)
        self._proprio_BP = np.zeros((num_envs, PROPRIO_DIM), dtype=np.float32)
        self._on_failure = on_failure
        self._closed = False
        self._starts: list[EpisodeStart | str] = ["none has begun yet"] * num_envs  # or why there is none
        self._languages = [""] * num_envs  # of episodes that have begun
        self._failures: list[tuple[str, str] | None] = [None] * num_envs  # who, and why
        self._success_B = np.zeros(num_envs, dtype=bool)
        self._num_steps_B = np.zeros(num_envs, dtype=np.int64)

    @abstractmethod
    def begin(self, starts: Mapping[int, EpisodeStart]) -> Generator[tuple[int, Outcome], None, None]:
        """Begin episodes by environment; yields what came of each. One that cannot begin spares the others."""

    @abstractmethod
    def advance(self, jobs: Mapping[int, Job], stop_on_success: bool) -> Generator[tuple[int, Outcome], None, None]:
        """Run jobs by environment, unchecked; yields what came of each."""

    def reset(self, starts: Sequence[EpisodeStart], env_ids: Sequence[int] | None = None) -> Frames:
        """Begin `starts[i]` in environment `env_ids[i]` (all environments by default); the others are untouched.

        Objects fall for `num_idle_steps` with the gripper open before the first observation. Where a start cannot be
        had (no such task or initial state, missing files, a worker's death) the other environments begin all the same;
        then `StartError` is raised, or (`on_failure="freeze"`) `Frames.failures_B` says why.
        """
        self._check_open()
        ids = self._check_ids(env_ids)
        if len(starts) != len(ids):
            raise VectorEnvError(f"expected one start per environment, {len(ids)} in all, given {len(starts)}")
        self._discard(ids, "its reset() broke off")
        for env_id, start in zip(ids, starts, strict=True):
            self._starts[env_id] = start
        by_env = dict(zip(ids, starts, strict=True))
        with self._whole(ids, "reset()") as unheard, closing(self.begin(by_env)) as results:
            for env_id, begun in results:
                if begun.view is None:
                    self._fail(env_id, str(begun.failure))
                else:
                    self._see(env_id, begun.view, success=begun.success[-1])
                    self._languages[env_id] = task_of(by_env[env_id]).language
                unheard.discard(env_id)
        frames = self._frames(ids)
        if (message := self._raised()) is not None:
            raise StartError(message, frames)
        return frames

    def step_chunk(
        self,
        actions_BCA: NDArray[np.float32],
        env_ids: Sequence[int] | None = None,
        *,
        stop_on_success: bool = True,
        max_steps_B: Sequence[int] | None = None,
        record_every: int = 0,
        record_ids: Sequence[int] | None = None,
    ) -> ChunkResult:
        """Run a chunk of C actions in each of `env_ids`, then observe once.

        actions: (B, C, 7) OSC deltas in [-1, 1], gripper -1 open / +1 close. With `stop_on_success` an episode that
        has reached its goal is not simulated further. `max_steps_B[i]` caps the actions simulated for environment i
        (0 leaves it as it is). `record_every=k` also returns the first camera after every k-th control step of the
        episodes in `record_ids`, which are among `env_ids` (None: all of them).

        When an episode cannot go on the others finish the chunk; then `ChunkError`, which has the result, is raised, or
        (`on_failure="freeze"`) `ChunkResult.failures_B` says why.
        """
        self._check_open()
        ids = self._check_ids(env_ids)
        self._check_begun(ids)
        actions = self._check_actions(actions_BCA, ids)
        limits = [actions.shape[1]] * len(ids) if max_steps_B is None else list(max_steps_B)
        if len(limits) != len(ids) or min(limits) < 0:
            raise VectorEnvError(
                f"max_steps_B must hold {len(ids)} numbers of at least 0, one per environment, given {limits}"
            )
        if record_every < 0:
            raise VectorEnvError(f"record_every={record_every} must not be negative")
        video_ids = ids if record_ids is None else list(record_ids)
        if strangers := set(video_ids) - set(ids):
            mistake = f"record_ids={sorted(video_ids)} must be among env_ids={ids}"
            raise VectorEnvError(f"{mistake}; {sorted(strangers)} are not")
        success_BC = np.repeat(self._success_B[ids][:, None], actions.shape[1], axis=1)
        num_steps_B = np.zeros(len(ids), dtype=np.int64)
        recorded: dict[int, tuple[NDArray[np.uint8], ...]] = dict.fromkeys(video_ids if record_every else (), ())
        jobs = {
            env_id: Job(actions[row, :limit], record_every if env_id in video_ids else 0)
            for row, (env_id, limit) in enumerate(zip(ids, limits, strict=True))
            if limit and self._failures[env_id] is None and not (stop_on_success and self._success_B[env_id])
        }
        with (
            self._whole(jobs, "step_chunk()") as unheard,
            closing(self.advance(jobs, stop_on_success=stop_on_success)) as results,
        ):
            for env_id, done in results:
                row, steps = ids.index(env_id), len(done.success)
                num_steps_B[row] = steps
                if steps:
                    success_BC[row, :steps], success_BC[row, steps:] = done.success, done.success[-1]
                if env_id in recorded:
                    recorded[env_id] = tuple(done.recorded)
                if done.view is None:
                    self._fail(env_id, str(done.failure), who=f"environment {env_id}")  # the reason tells the rest
                else:
                    self._see(env_id, done.view, success=done.success[-1])
                    self._num_steps_B[env_id] += steps
                unheard.discard(env_id)
        result = ChunkResult(self._frames(ids), success_BC, num_steps_B, recorded)
        if (message := self._raised()) is not None:
            raise ChunkError(message, result)
        return result

    def observe(self, env_ids: Sequence[int] | None = None) -> Frames:
        """What was observed last, as the calls that did returned it; nothing is drawn."""
        self._check_open()
        return self._frames(self._check_ids(env_ids))

    def render(self, env_ids: Sequence[int] | None = None) -> NDArray[np.uint8]:
        """Last observed images (B, H, W, 3) of the first camera; `record_every` of `step_chunk` sees more."""
        self._check_open()
        ids = self._check_ids(env_ids)
        self._check_begun(ids)
        for env_id in ids:
            if not self._languages[env_id]:
                raise VectorEnvError(f"nothing was seen of {self._told(env_id)}")
        return self._images_BNHWC[ids, 0]

    def describe(self, env_id: int) -> str:
        """An environment with what it is at, for messages."""
        start = self._starts[env_id]
        if isinstance(start, str):
            return f"environment {env_id}"
        return (
            f"environment {env_id} ({start.suite} task {start.task_id}, initial state {start.init_index}, seed "
            f"{start.seed}, step {self._num_steps_B[env_id]})"
        )

    def close(self) -> None:
        """Free everything; the object cannot be used afterwards. A second call does nothing."""
        self._closed = True
        self._discard(range(self.num_envs), "it is closed")

    # Internals --------------------------------------------------------------------------------------------------

    def _check_open(self) -> None:
        if self._closed:
            raise VectorEnvError(f"this {type(self).__name__} is closed: make a new one")

    def _check_begun(self, env_ids: Iterable[int]) -> None:
        for env_id in env_ids:
            if isinstance(why := self._starts[env_id], str):
                raise VectorEnvError(f"environment {env_id} has no episode ({why}): call reset() for it first")

    def _discard(self, env_ids: Iterable[int], why: str) -> None:
        """Leave environments without an episode."""
        for env_id in env_ids:
            self._starts[env_id], self._failures[env_id], self._languages[env_id] = why, None, ""
            self._success_B[env_id], self._num_steps_B[env_id] = False, 0
            self._images_BNHWC[env_id] = self._proprio_BP[env_id] = 0

    @contextmanager
    def _whole(self, env_ids: Iterable[int], call: str) -> Iterator[set[int]]:
        """A call that may break off (Ctrl-C): where nothing was heard of it nobody knows how far the episode got."""
        unheard = set(env_ids)
        try:
            yield unheard
        except BaseException:
            self._discard(unheard, f"its last {call} broke off")
            raise

    def _fail(self, env_id: int, why: str, *, who: str | None = None) -> None:
        """An environment's episode cannot go on."""
        self._failures[env_id] = who or self.describe(env_id), why

    def _told(self, env_id: int) -> str | None:
        failure = self._failures[env_id]
        return None if failure is None else ": ".join(failure)

    def _see(self, env_id: int, view: View, *, success: bool) -> None:
        self._images_BNHWC[env_id], self._proprio_BP[env_id] = view.images_NHWC, view.proprio
        self._success_B[env_id] = success

    def _raised(self) -> str | None:
        """With `on_failure="raise"`, any failure discards its episode; returns what to say of them all."""
        if self._on_failure != "raise":
            return None
        whose: dict[str, list[str]] = {}
        for env_id, failure in enumerate(self._failures):
            if failure is not None:
                whose.setdefault(failure[1], []).append(failure[0])
                self._discard([env_id], "its last one failed")
        return "; ".join(f"{', '.join(who)}: {why}" for why, who in whose.items()) or None

    def _frames(self, ids: list[int]) -> Frames:
        return Frames(
            images_BNHWC=self._images_BNHWC[ids],
            proprio_BP=self._proprio_BP[ids],
            languages=tuple(self._languages[env_id] for env_id in ids),
            failures_B=tuple(self._told(env_id) for env_id in ids),
        )

    # Checks -----------------------------------------------------------------------------------------------------

    def _check_ids(self, env_ids: Sequence[int] | None) -> list[int]:
        if env_ids is None:
            return list(range(self.num_envs))
        ids = [int(env_id) for env_id in env_ids]
        outside = [env_id for env_id in ids if not 0 <= env_id < self.num_envs]
        if outside:
            raise VectorEnvError(f"env_ids {outside} are out of range: there are environments 0 to {self.num_envs - 1}")
        if not ids or len(set(ids)) != len(ids):
            raise VectorEnvError(f"env_ids must be a non-empty list of different environments, given {ids}")
        return ids

    def _check_actions(self, actions_BCA: NDArray[np.float32], ids: list[int]) -> NDArray[np.float64]:
        actions = np.asarray(actions_BCA, dtype=np.float64)
        if actions.ndim != 3 or actions.shape[::2] != (len(ids), ACTION_DIM) or not actions.size:
            raise VectorEnvError(
                f"actions must have shape ({len(ids)}, C, {ACTION_DIM}) with C >= 1 for environments {ids}, given "
                f"{actions.shape}"
            )
        if not np.isfinite(actions).all():
            first = tuple(int(k) for k in np.argwhere(~np.isfinite(actions))[0])
            raise VectorEnvError(
                f"actions must be finite, given {actions[first]} at index {first} of (B, C, A), which is for "
                f"{self.describe(ids[first[0]])}"
            )
        return actions
