"""Many LIBERO episodes in one process, advanced chunk by chunk and rendered once per chunk.

B environments, C actions per chunk, A action dimensions, N cameras, P proprioception, H and W pixels.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from libero_runtime.kernel.layout import ACTION_DIM
from libero_runtime.opengl import select_opengl
from libero_runtime.paths import QUALITIES, Quality
from libero_runtime.sim.scene import Scene
from libero_runtime.sim.state import EpisodeState, SimulationError, View
from libero_runtime.suites import TaskSpec, load_suite


class VectorEnvError(ValueError):
    """A call that does not fit the environments; the message says what was expected and what came."""


@dataclass(frozen=True)
class EpisodeStart:
    """Which episode to begin: a task, one of its 50 published initial states, and the seed of the fixture poses."""

    suite: str
    task_id: int
    init_index: int
    seed: int = 0


@dataclass(frozen=True)
class Frames:
    """Observations of B environments."""

    images_BNHWC: NDArray[np.uint8]  # rotated by 180 degrees, as policies are trained on
    proprio_BP: NDArray[np.float32]  # end-effector position 3, axis-angle 3, finger positions 2
    languages: tuple[str, ...]


@dataclass(frozen=True)
class ChunkResult:
    """What came of one chunk of actions."""

    frames: Frames  # after the chunk
    success_BC: NDArray[np.bool_]  # goal predicate after each action; actions not simulated repeat the last value
    num_steps_B: NDArray[np.int64]  # actions simulated
    failures_B: tuple[str | None, ...]  # why an episode cannot go on (MuJoCo's state went bad), else None
    recorded: dict[int, tuple[NDArray[np.uint8], ...]]  # (H, W, 3) frames by environment, of those asked for


@dataclass
class _Episode:
    task: TaskSpec
    state: EpisodeState
    view: View
    failure: str | None = None


class LiberoVectorEnv:
    """B episodes over any mix of tasks; episodes of a task share one compiled scene.

    An episode that has ended stays as it is until `reset` names its environment. Same bits whatever the other episodes
    are. To be called from one thread, always the same one (OpenGL belongs to it); processes of one's own use more
    cores. `quality="official"` gives stock pixels. At most `max_scenes` compiled scenes are kept; the least recently
    used one is dropped and rebuilt when its episodes come up again.
    """

    def __init__(
        self,
        *,
        num_envs: int,
        cameras: Sequence[str] = ("agentview",),
        image_size: int = 256,
        quality: str = "fast",
        num_idle_steps: int = 10,
        max_scenes: int = 10,
        watch: Callable[[str], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        """watch: what is about to be done, for somebody who takes the time."""
        if quality not in QUALITIES:
            raise VectorEnvError(f"quality={quality!r} must be one of {', '.join(QUALITIES)}")
        select_opengl()  # where there is none, nobody has to wait for a reset to hear of it
        self.num_envs = num_envs
        self._cameras = tuple(cameras)
        self._image_size = image_size
        self._quality: Quality = "official" if quality == "official" else "fast"
        self._num_idle_steps = num_idle_steps
        self._max_scenes = max_scenes
        self._watch = watch
        self._scenes: OrderedDict[TaskSpec, Scene] = OrderedDict()
        self._episodes: dict[int, _Episode] = {}  # by environment

    def reset(self, starts: Sequence[EpisodeStart], env_ids: Sequence[int] | None = None) -> Frames:
        """Begin `starts[i]` in environment `env_ids[i]` (all environments by default); the others are untouched.

        Objects fall for `num_idle_steps` with the gripper open before the first observation.

        Raises:
            VectorEnvError: a start cannot be had: no such task or initial state, missing files, bad physics. The
                environments of the call are then without episodes.
        """
        ids = self._check_ids(env_ids)
        if len(starts) != len(ids):
            raise VectorEnvError(f"expected one start per environment, {len(ids)} in all, given {len(starts)}")
        for env_id in ids:
            self._episodes.pop(env_id, None)
        begun: dict[int, _Episode] = {}
        for env_id, start in sorted(zip(ids, starts, strict=True), key=lambda one: (one[1].suite, one[1].task_id)):
            try:
                task = load_suite(start.suite).task(start.task_id)
                state, view = self._scene(task).start(init_index=start.init_index, seed=start.seed)
            except (ValueError, SimulationError) as error:
                raise VectorEnvError(
                    f"environment {env_id} ({start.suite} task {start.task_id}, initial state {start.init_index}, seed "
                    f"{start.seed}): {error}"
                ) from error
            begun[env_id] = _Episode(task, state, view)
        self._episodes |= begun
        return self._frames(ids)

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

        An episode that cannot go on stays as it was before the chunk, and `failures_B` of this and all further results
        say why, until it is reset; the others finish the chunk.
        """
        ids = self._check_ids(env_ids)
        for env_id in ids:
            if env_id not in self._episodes:
                raise VectorEnvError(f"environment {env_id} has no episode: call reset() for it first")
        actions = self._check_actions(actions_BCA, ids)
        limits = [actions.shape[1]] * len(ids) if max_steps_B is None else list(max_steps_B)
        if len(limits) != len(ids) or min(limits) < 0:
            raise VectorEnvError(
                f"max_steps_B must hold {len(ids)} numbers of at least 0, one per environment, given {limits}"
            )
        recording = set(ids if record_ids is None else record_ids) if record_every else set()
        if strangers := recording - set(ids):
            raise VectorEnvError(f"record_ids must be among env_ids={ids}; {sorted(strangers)} are not")
        episodes = [self._episodes[env_id] for env_id in ids]
        success_BC = np.repeat([[episode.state.success] for episode in episodes], actions.shape[1], axis=1)
        num_steps_B = np.zeros(len(ids), dtype=np.int64)
        recorded: dict[int, tuple[NDArray[np.uint8], ...]] = {env_id: () for env_id in ids if env_id in recording}
        rows = [
            row
            for row, episode in enumerate(episodes)
            if limits[row] and episode.failure is None and not (stop_on_success and episode.state.success)
        ]
        for wave in self._waves(rows, episodes):
            scenes = [self._scene(episodes[row].task) for row in wave]
            # All steps first, then all frames: each finds its own data in the caches.
            with self._watch("simulate"):
                ends = [
                    scene.advance(
                        episodes[row].state,
                        actions[row, : limits[row]],
                        stop_on_success=stop_on_success,
                        record_every=record_every if ids[row] in recording else 0,
                    )
                    for scene, row in zip(scenes, wave, strict=True)
                ]
            for scene, row, end in zip(scenes, wave, ends, strict=True):
                steps, episode = len(end.success), episodes[row]
                num_steps_B[row] = steps
                if steps:
                    success_BC[row, :steps], success_BC[row, steps:] = end.success, end.success[-1]
                if ids[row] in recording:
                    recorded[ids[row]] = tuple(scene.draw(pose, 1)[0] for pose in end.recorded)
                if end.failure is None:
                    with self._watch("draw"):
                        episode.view = View(images_NHWC=scene.draw(end.state.pose), proprio=end.proprio)
                    episode.state = end.state
                else:
                    episode.failure = f"environment {ids[row]}: {end.failure}"
        failures_B = tuple(episode.failure for episode in episodes)
        return ChunkResult(self._frames(ids), success_BC, num_steps_B, failures_B, recorded)

    def close(self) -> None:
        """Free every scene; the object cannot be used afterwards. A second call does nothing."""
        for scene in self._scenes.values():
            scene.close()
        self._scenes.clear()
        self._episodes.clear()

    def _waves(self, rows: Sequence[int], episodes: Sequence[_Episode]) -> Iterator[list[int]]:
        """Rows by task, in groups of at most `max_scenes` tasks: a group's scenes are alive together."""
        by_task: dict[TaskSpec, list[int]] = {}
        for row in rows:
            by_task.setdefault(episodes[row].task, []).append(row)
        for first in range(0, len(by_task), self._max_scenes):
            yield list(chain.from_iterable(list(by_task.values())[first : first + self._max_scenes]))

    def _scene(self, task: TaskSpec) -> Scene:
        if task in self._scenes:
            self._scenes.move_to_end(task)
            return self._scenes[task]
        while len(self._scenes) >= self._max_scenes:
            self._scenes.popitem(last=False)[1].close()
        with self._watch("build scene"):
            self._scenes[task] = Scene(
                task,
                cameras=self._cameras,
                image_size=self._image_size,
                quality=self._quality,
                num_idle_steps=self._num_idle_steps,
            )
        return self._scenes[task]

    def _frames(self, ids: Sequence[int]) -> Frames:
        episodes = [self._episodes[env_id] for env_id in ids]
        return Frames(
            images_BNHWC=np.stack([episode.view.images_NHWC for episode in episodes]),
            proprio_BP=np.stack([episode.view.proprio for episode in episodes]),
            languages=tuple(episode.task.language for episode in episodes),
        )

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

    @staticmethod
    def _check_actions(actions_BCA: NDArray[np.float32], ids: Sequence[int]) -> NDArray[np.float64]:
        actions = np.asarray(actions_BCA, dtype=np.float64)
        if actions.ndim != 3 or actions.shape[::2] != (len(ids), ACTION_DIM) or not actions.size:
            raise VectorEnvError(
                f"actions must have shape ({len(ids)}, C, {ACTION_DIM}) with C >= 1 for environments {list(ids)}, "
                f"given {actions.shape}"
            )
        if not np.isfinite(actions).all():
            first = tuple(int(k) for k in np.argwhere(~np.isfinite(actions))[0])
            raise VectorEnvError(f"actions must be finite, given {actions[first]} at index {first} of (B, C, A)")
        return actions
