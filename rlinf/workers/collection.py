"""One collection of episodes, in which simulators and the policy work at the same time.

The environments of a simulator process form pipeline stages that take turns: while one is simulated, the policy acts
on others. On a GPU the policy acts on one batch while the next is put together, so that it never runs out of work.
"""

import logging
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray
from ray.actor import ActorHandle
from ray.exceptions import ActorUnavailableError, GetTimeoutError, ObjectLostError, RayActorError

from rlinf.data import Collected, CollectRequest, EnvStep, EpisodePlan, Observation
from rlinf.envs.episodes import EpisodeQueue, EpisodeRecorder, environments_at_a_time
from rlinf.models import Policy, PolicyOutput
from rlinf.models.transfer import Received
from rlinf.reporting.trace import RECORDER, traced
from rlinf.scheduler.worker_group import WorkerError, describe_death
from rlinf.workers.env import PlayRequest

log = logging.getLogger(__name__)

MAX_FLIGHTS = 2  # one batch that the policy acts on, and the next
POLL_S = 0.002  # between two checks of what simulators have answered, while the policy is busy
RESTART_S = 0.1  # between two questions whether a process has taken the place of one that died
REPLACED_WITHIN_S = 120.0
LOOK_S = 1.0  # between two checks whether one has stopped answering, while nothing else is to be done


@dataclass(eq=False)
class _Stage:
    """A group of environments of one simulator process: the episode of each, and how many chunks of it were begun.

    asked: when the process was given its request.
    """

    worker: int
    env_ids: Sequence[int]
    episode_of: dict[int, EpisodePlan] = field(default_factory=dict)
    chunk_of: dict[int, int] = field(default_factory=dict)
    request: PlayRequest | None = None
    asked: float = 0.0

    @property
    def num_asked(self) -> int:
        """Environments that the simulator is busy with: at most so many wait for an action afterwards."""
        return 0 if self.request is None else len(self.request.start_ids) + len(self.request.step_ids)


@dataclass(frozen=True)
class _Flight:
    """A batch that the policy acts on. sample: bins, log-probabilities and, with a value head, values."""

    rows: Sequence[tuple[_Stage, int]]
    frames: Received
    output: PolicyOutput
    sample: Received
    launched: float


class Collector:
    """Plays complete episodes in the simulator processes ``envs``, each with ``num_envs`` environments.

    recorder: is told of everything; another thread may ask it how far the collection is.
    timeout_s: a process that has not answered a call after so many seconds is ended.
    max_replaced: how often each process may die; Ray starts another in its place, which plays the unfinished episodes
        again. An episode depends on its plan and number alone, so on a CPU nothing else comes of it; a GPU rounds
        what it computes beside others in other ways.
    """

    def __init__(
        self,
        policy: Policy,
        envs: "Sequence[ActorHandle[Any]]",
        request: CollectRequest,
        recorder: EpisodeRecorder,
        *,
        num_envs: int,
        num_stages: int,
        max_batch: int,
        timeout_s: float,
        max_replaced: int,
    ) -> None:
        self._policy = policy
        self._envs = envs
        self._request = request
        self._max_batch, self._timeout_s, self._max_replaced = max_batch, timeout_s, max_replaced
        self._replaced, self._ended = Counter[int](), set[int]()
        self._queue, self._recorder = EpisodeQueue(request.plans), recorder
        self._videos: dict[int, list[NDArray[np.uint8]]] = {number: [] for number in sorted(request.video_episodes)}
        self._pending: dict[ray.ObjectRef[Any], _Stage] = {}
        self._flights: deque[_Flight] = deque()
        self._inference_s = self._waiting_s = self._landed = 0.0
        self._num_chunks = 0
        size = num_envs // num_stages
        starts = range(0, num_stages * size, size)
        stages = [(worker, range(start, start + size)) for start in starts for worker in range(len(envs))]
        # Evenly over stages, and so over processes.
        used = environments_at_a_time(len(request.plans), len(envs) * num_envs)
        shares = [used // len(stages) + (index < used % len(stages)) for index in range(len(stages))]
        self._stages = [_Stage(worker, ids[:share]) for (worker, ids), share in zip(stages, shares, strict=True)]

    def run(self) -> Collected:
        """Play all episodes."""
        self._configure()
        for stage in self._stages:
            self._submit(stage, {})
        while self._pending or self._flights:
            if self._flights and (
                not self._pending or len(self._flights) == MAX_FLIGHTS or self._flights[0].sample.is_here()
            ):
                self._land(self._flights.popleft())
            else:
                self._launch(self._answered())
        results = self._recorder.results()
        by_number = {result.plan.episode: result for result in results}
        return Collected(
            results=tuple(results),
            batches=tuple(self._recorder.batches()),
            videos=tuple((by_number[n], tuple(frames)) for n, frames in self._videos.items() if n in by_number),
            inference_s=self._inference_s,
            waiting_s=self._waiting_s,
            num_chunks=self._num_chunks,
            num_replaced=self._replaced.total(),
        )

    def _answered(self) -> "list[ray.ObjectRef[Any]]":
        """Stages to act on together, of those that have answered. While the policy is idle, at least one, which is
        waited for; while it is busy, as many as fill a batch or none: others may answer before it is done."""
        refs, is_busy = list(self._pending), bool(self._flights)
        if not is_busy:
            started = time.perf_counter()
            with RECORDER.span("wait for simulators"):
                while not ray.wait(refs, num_returns=1, timeout=LOOK_S)[0]:
                    self._end_silent(refs)
            self._waiting_s += time.perf_counter() - started
        ready, silent = ray.wait(refs, num_returns=len(refs), timeout=POLL_S if is_busy else 0)
        self._end_silent(silent)
        room, chosen = self._max_batch, 0
        while chosen < len(ready) and (chosen == 0 or self._pending[ready[chosen]].num_asked <= room):
            room -= self._pending[ready[chosen]].num_asked
            chosen += 1
        is_full = chosen < len(ready) or room <= 0
        return ready[:chosen] if is_full or not is_busy else []

    def _end_silent(self, refs: "Sequence[ray.ObjectRef[Any]]") -> None:
        """End processes that have not answered for too long: these calls then fail like those of one that died."""
        for ref in refs:
            stage = self._pending[ref]
            if time.monotonic() - stage.asked > self._timeout_s and stage.worker not in self._ended:
                log.warning("simulator %d has not answered for %.0f s: it is ended", stage.worker, self._timeout_s)
                self._ended.add(stage.worker)
                ray.kill(self._envs[stage.worker], no_restart=False)

    def _replace(self, worker: int, error: RayActorError | ObjectLostError) -> None:
        """A simulator process has died, and Ray starts another in its place: its episodes begin anew. What the policy
        answers to the dead one's observations counts no more, since their stages are none of ours any longer.

        Raises:
            WorkerError: that happens too often.
        """
        self._replaced[worker] += 1
        if self._replaced[worker] > self._max_replaced:
            count = self._replaced[worker]
            raise WorkerError(f"simulator {worker} died {count} times (runner.max_restarts): {describe_death(error)}")
        lost = [stage for stage in self._stages if stage.worker == worker]
        self._pending = {ref: stage for ref, stage in self._pending.items() if stage not in lost}
        plans = [plan for stage in lost for plan in stage.episode_of.values()]
        why = describe_death(error)
        log.warning("simulator %d died; another plays its %d unfinished episodes again: %s", worker, len(plans), why)
        self._queue.put_back(plans)
        for plan in plans:
            self._videos.get(plan.episode, []).clear()
        self._stages = [_Stage(worker, stage.env_ids) if stage in lost else stage for stage in self._stages]
        self._configure_another(worker)
        self._ended.discard(worker)
        for stage in self._stages:
            if stage.worker == worker:
                self._submit(stage, {})

    def _configure(self) -> None:
        """Tell all processes the rules, also one that takes the place of one that has died or hung since the collection
        before: it would play by others."""
        asked: list[ray.ObjectRef[Any]] = [env.configure.remote(self._request.split) for env in self._envs]
        for worker, ref in enumerate(asked):
            try:
                ray.get(ref, timeout=self._timeout_s)
                continue
            except GetTimeoutError:
                ray.kill(self._envs[worker], no_restart=False)
            except RayActorError as error:
                log.warning("simulator %d died while nothing was played: %s", worker, describe_death(error))
            self._replaced[worker] += 1
            self._configure_another(worker)

    def _configure_another(self, worker: int) -> None:
        """Wait until Ray has started a process in the place of one that died: it refuses calls at first."""
        deadline = time.monotonic() + REPLACED_WITHIN_S
        env: Any = self._envs[worker]
        while True:
            try:
                ray.get(env.configure.remote(self._request.split), timeout=REPLACED_WITHIN_S)
                return
            except ActorUnavailableError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(RESTART_S)

    @traced("act")
    def _launch(self, answered: "Sequence[ray.ObjectRef[Any]]") -> None:
        """Let the policy act on the observations of stages."""
        rows: list[tuple[_Stage, int]] = []
        seen: list[Observation] = []
        for ref in answered:
            stage = self._pending.pop(ref, None)
            if stage is None:  # of a process that died a moment ago
                continue
            try:
                with RECORDER.span("read answer"):
                    answer = ray.get(ref)
            except (RayActorError, ObjectLostError) as error:  # its process is gone, or its node with the answer
                self._replace(stage.worker, error)
                continue
            num_rows = len(rows)
            for env_ids, observation in self._absorb(stage, *answer):
                rows += [(stage, env_id) for env_id in env_ids]
                seen.append(observation)
            if len(rows) == num_rows:
                self._submit(stage, {})
        if not rows:
            return
        launched = time.perf_counter()
        with RECORDER.span("prepare"):
            inputs = self._policy.prepare(Observation.cat(seen))
        kept = [inputs.images_BNHWC] if self._request.keep_samples else []
        frames = Received(*kept)  # before the policy is busy with them
        with RECORDER.span("policy"):
            output = self._policy.act(inputs, temperature=self._request.temperature, uniforms_BCA=self._uniforms(rows))
        values = [] if output.values_B is None else [output.values_B.float()]
        sample = Received(output.bins_BCA, output.logprobs_BCA.float(), *values)
        self._flights.append(_Flight(rows, frames, output, sample, launched))
        self._num_chunks += len(rows)

    def _uniforms(self, rows: Sequence[tuple[_Stage, int]]) -> NDArray[np.float64]:
        """Each row's random numbers depend on its episode and chunk alone."""
        stream, shape = self._request.stream, self._policy.chunk_shape
        return np.stack([
            np.random.default_rng([*stream, stage.episode_of[env_id].episode, stage.chunk_of[env_id]]).random(shape)
            for stage, env_id in rows
        ])  # fmt: skip

    @traced("hand over actions")
    def _land(self, flight: _Flight) -> None:
        """Hand the policy's actions to the simulators; the recorder keeps what the learner needs."""
        env_actions_BCA = flight.output.env_actions_BCA
        rows = [row for row, (stage, _) in enumerate(flight.rows) if stage in self._stages]
        chosen = slice(None) if len(rows) == len(flight.rows) else rows  # a slice copies no images
        frames, (bins_BCA, logprobs_BCA, *values) = flight.frames.arrays(), flight.sample.arrays()
        now = time.perf_counter()
        seconds = now - max(flight.launched, self._landed)
        RECORDER.add("inference", time.time_ns() - int(1e9 * seconds), lane="policy")
        self._inference_s += seconds
        self._landed = now
        if self._request.keep_samples:
            self._recorder.act(
                [stage.episode_of[env_id].episode for stage, env_id in (flight.rows[row] for row in rows)],
                images_BNHWC=frames[0][chosen],
                bins_BCA=bins_BCA[chosen],
                logprobs_BCA=logprobs_BCA[chosen],
                values_B=values[0][chosen] if values else None,
            )
        actions: dict[_Stage, dict[int, NDArray[np.float32]]] = {}
        for row in rows:
            stage, env_id = flight.rows[row]
            stage.chunk_of[env_id] += 1
            actions.setdefault(stage, {})[env_id] = env_actions_BCA[row]
        for stage, own in actions.items():
            self._submit(stage, own)

    def _absorb(
        self, stage: _Stage, started: Observation | None, step: EnvStep | None
    ) -> Iterator[tuple[Sequence[int], Observation]]:
        """Record what a stage's environments did; yields those that wait for an action, with what they show."""
        assert stage.request is not None
        if step is not None:
            step_ids = stage.request.step_ids
            self._recorder.step([stage.episode_of[env_id].episode for env_id in step_ids], step)
            for env_id, frames in step.video_frames.items():
                self._videos[stage.episode_of[env_id].episode].extend(frames)
            for position in np.flatnonzero(step.done_B):
                del stage.episode_of[step_ids[position]]
            going = np.flatnonzero(~step.done_B)
            if len(going):
                yield [step_ids[position] for position in going], step.observation.select(going)
        if started is not None:
            yield stage.request.start_ids, started

    @traced("submit")
    def _submit(self, stage: _Stage, actions: Mapping[int, NDArray[np.float32]]) -> None:
        """Send a stage its actions, and new episodes for environments that are free."""
        starts: list[tuple[int, EpisodePlan]] = []
        for env_id in stage.env_ids:
            if env_id not in stage.episode_of and (plan := self._queue.next(stage.worker)) is not None:
                stage.episode_of[env_id] = plan
                stage.chunk_of[env_id] = 0
                self._recorder.start(plan)
                starts.append((env_id, plan))
        step_ids = tuple(actions)
        if not starts and not step_ids:
            return
        video_episodes = self._request.video_episodes
        stage.request = PlayRequest(
            start=tuple(plan for _, plan in starts),
            start_ids=tuple(env_id for env_id, _ in starts),
            actions_BCA=np.stack([actions[env_id] for env_id in step_ids]) if step_ids else None,
            step_ids=step_ids,
            video_ids=tuple(env_id for env_id in step_ids if stage.episode_of[env_id].episode in video_episodes),
        )
        stage.asked = time.monotonic()
        self._pending[self._envs[stage.worker].play.remote(stage.request)] = stage
