"""One collection of episodes, in which simulators and the policy work at the same time.

The environments of a simulator process form lanes that take turns: while one is simulated, the policy looks at others.
On a GPU the policy looks at one batch while the next is put together, so that it never runs out of work.
"""

import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray
from ray.actor import ActorHandle

from rlinf.config.schema import EnvSplitConfig
from rlinf.data import EpisodePlan, EpisodeResult, Observation
from rlinf.envs.episodes import EpisodeQueue, EpisodeRecorder, environments_at_a_time
from rlinf.models import Policy, PolicyOutput
from rlinf.models.transfer import Received
from rlinf.workers.env import PlayRequest, PlayResult, split_lanes

MAX_FLIGHTS = 2  # one batch that the policy looks at, and the next
POLL_S = 0.002  # between two looks at what simulators have answered, while the policy is busy


@dataclass(frozen=True)
class CollectRequest:
    """Episodes to play.

    stream: seeds the action noise together with an episode's number and the chunk's position in it, and nothing else.
    keep_samples: keep experience for the learner (training) or results only (evaluation).
    film: numbers of episodes whose frames are kept.
    lora_scale: factor on the adapter; training always uses 1.
    """

    plans: tuple[EpisodePlan, ...]
    split: EnvSplitConfig
    temperature: float
    stream: tuple[int, ...]
    keep_samples: bool
    film: frozenset[int] = frozenset()
    lora_scale: float = 1.0


@dataclass(frozen=True)
class Collected:
    """Outcome of a collection; ``batches`` refer to a ``RolloutBatch`` for each episode in the object store, in their
    order.

    inference_s: while the policy had something to look at; waiting_s: while it had not.
    """

    results: tuple[EpisodeResult, ...]
    batches: "tuple[ray.ObjectRef[Any], ...]"
    videos: tuple[tuple[EpisodeResult, tuple[NDArray[np.uint8], ...]], ...]
    inference_s: float
    waiting_s: float
    num_chunks: int


@dataclass
class Tally:
    """Finished episodes of a running collection, for another thread to read."""

    done: int = 0
    successes: int = 0


@dataclass(frozen=True)
class _Acted:
    """What an environment was shown and what the policy answered: one row of a rollout."""

    frames_NHWC: NDArray[np.uint8]
    bins_CA: NDArray[np.int64]
    logprobs_CA: NDArray[np.float32]
    value: np.float32 | None


@dataclass(eq=False)
class _Lane:
    """A group of environments of one simulator process, and the observation each one waits to act on."""

    worker: int
    env_ids: Sequence[int]
    episode_of: dict[int, EpisodePlan] = field(default_factory=dict)
    chunk_of: dict[int, int] = field(default_factory=dict)
    request: PlayRequest | None = None
    step_inputs: dict[int, _Acted] = field(default_factory=dict)

    @property
    def num_asked(self) -> int:
        """Environments that the simulator is busy with: at most so many wait for an action afterwards."""
        return 0 if self.request is None else len(self.request.start_ids) + len(self.request.step_ids)


@dataclass(frozen=True)
class _Flight:
    """A batch that the policy looks at. sample: bins, log-probabilities and, with a value head, values."""

    rows: Sequence[tuple[_Lane, int]]
    frames: Received
    output: PolicyOutput
    sample: Received
    launched: float


class Collection:
    """Plays whole episodes in the simulator processes ``envs``, each with ``num_envs`` environments."""

    def __init__(
        self,
        policy: Policy,
        envs: "Sequence[ActorHandle[Any]]",
        request: CollectRequest,
        tally: Tally,
        *,
        num_envs: int,
        num_lanes: int,
        max_batch: int,
    ) -> None:
        self._policy = policy
        self._envs = envs
        self._request = request
        self._tally = tally
        self._max_batch = max_batch
        self._queue, self._recorder = EpisodeQueue(request.plans), EpisodeRecorder(ray.put)
        self._films: dict[int, list[NDArray[np.uint8]]] = {number: [] for number in sorted(request.film)}
        self._pending: dict[ray.ObjectRef[Any], _Lane] = {}
        self._flights: deque[_Flight] = deque()
        self._inference_s = self._waiting_s = self._landed = 0.0
        self._num_chunks = 0
        lanes = [(worker, ids) for ids in split_lanes(num_envs, num_lanes) for worker in range(len(envs))]
        # Evenly over lanes, and so over processes.
        used = environments_at_a_time(len(request.plans), len(envs) * num_envs)
        shares = [used // len(lanes) + (index < used % len(lanes)) for index in range(len(lanes))]
        self._lanes = [_Lane(worker, ids[:share]) for (worker, ids), share in zip(lanes, shares, strict=True)]

    def run(self) -> Collected:
        """Play all episodes."""
        ray.get([env.configure.remote(self._request.split) for env in self._envs])
        for lane in self._lanes:
            self._submit(lane, {})
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
            videos=tuple((by_number[n], tuple(frames)) for n, frames in self._films.items() if n in by_number),
            inference_s=self._inference_s,
            waiting_s=self._waiting_s,
            num_chunks=self._num_chunks,
        )

    def _answered(self) -> "list[ray.ObjectRef[Any]]":
        """Lanes to look at together, of those that have answered. While the policy is idle, at least one, which is
        waited for; while it is busy, as many as fill a batch or none: others may answer before it is done."""
        refs, is_busy = list(self._pending), bool(self._flights)
        if not is_busy:
            started = time.perf_counter()
            ray.wait(refs, num_returns=1)
            self._waiting_s += time.perf_counter() - started
        ready, _ = ray.wait(refs, num_returns=len(refs), timeout=POLL_S if is_busy else 0)
        room, chosen = self._max_batch, 0
        while chosen < len(ready) and (chosen == 0 or self._pending[ready[chosen]].num_asked <= room):
            room -= self._pending[ready[chosen]].num_asked
            chosen += 1
        is_full = chosen < len(ready) or room <= 0
        return ready[:chosen] if is_full or not is_busy else []

    def _launch(self, answered: "Sequence[ray.ObjectRef[Any]]") -> None:
        """Let the policy look at what lanes have come to show."""
        rows: list[tuple[_Lane, int]] = []
        seen: list[Observation] = []
        for ref in answered:
            lane = self._pending.pop(ref)
            env_ids, observations = self._absorb(lane, ray.get(ref))
            rows += [(lane, env_id) for env_id in env_ids]
            seen += observations
            if not env_ids:
                self._submit(lane, {})
        if not rows:
            return
        launched = time.perf_counter()
        inputs = self._policy.prepare(Observation.cat(seen))
        frames = Received(inputs.frames_BNHWC)  # before the policy is busy with them
        output = self._policy.act(inputs, temperature=self._request.temperature, uniforms_BCA=self._uniforms(rows))
        values = [] if output.values_B is None else [output.values_B.float()]
        sample = Received(output.bins_BCA, output.logprobs_BCA.float(), *values)
        self._flights.append(_Flight(rows, frames, output, sample, launched))
        self._num_chunks += len(rows)

    def _uniforms(self, rows: Sequence[tuple[_Lane, int]]) -> NDArray[np.float64]:
        """Each row's random numbers depend on its episode and chunk alone."""
        stream, shape = self._request.stream, self._policy.chunk_shape
        return np.stack([
            np.random.default_rng([*stream, lane.episode_of[env_id].episode, lane.chunk_of[env_id]]).random(shape)
            for lane, env_id in rows
        ])  # fmt: skip

    def _land(self, flight: _Flight) -> None:
        """Hand the policy's actions to the simulators; what the learner needs is kept in the lanes."""
        env_actions_BCA = flight.output.env_actions_BCA
        (frames_BNHWC,), (bins_BCA, logprobs_BCA, *values) = flight.frames.arrays(), flight.sample.arrays()
        now = time.perf_counter()
        self._inference_s += now - max(flight.launched, self._landed)
        self._landed = now
        actions: dict[_Lane, dict[int, NDArray[np.float32]]] = {}
        for row, (lane, env_id) in enumerate(flight.rows):
            value = values[0][row] if values else None
            lane.step_inputs[env_id] = _Acted(frames_BNHWC[row], bins_BCA[row], logprobs_BCA[row], value)
            lane.chunk_of[env_id] += 1
            actions.setdefault(lane, {})[env_id] = env_actions_BCA[row]
        for lane, own in actions.items():
            self._submit(lane, own)

    def _absorb(self, lane: _Lane, result: PlayResult) -> tuple[list[int], list[Observation]]:
        """Record what a lane's environments did; returns those that wait for an action, with what they show."""
        assert lane.request is not None
        rows: list[int] = []
        seen: list[Observation] = []
        step_ids = list(lane.request.step_ids)
        if result.step is not None:
            acted = [lane.step_inputs[env_id] for env_id in step_ids]
            values = [item.value for item in acted if item.value is not None]
            finished = self._recorder.add(
                [lane.episode_of[env_id].episode for env_id in step_ids],
                frames_BNHWC=np.stack([item.frames_NHWC for item in acted]),
                languages=result.step.observation.languages,
                bins_BCA=np.stack([item.bins_CA for item in acted]),
                logprobs_BCA=np.stack([item.logprobs_CA for item in acted]),
                step=result.step,
                keep_samples=self._request.keep_samples,
                values_B=np.array(values, np.float32) if values else None,
            )
            for env_id, frames in result.step.video_frames.items():
                self._films[lane.episode_of[env_id].episode].extend(frames)
            self._tally.done += len(finished)
            self._tally.successes += sum(outcome.success_once for outcome in finished)
            over = result.step.done_B
            for env_id, done in zip(step_ids, over, strict=True):
                if done:
                    del lane.episode_of[env_id]
            going = np.flatnonzero(~over)
            rows += [step_ids[position] for position in going]
            if len(going):
                seen.append(_rows(result.step.observation, going))
        if result.started is not None:
            rows += lane.request.start_ids
            seen.append(result.started)
        return rows, seen

    def _submit(self, lane: _Lane, actions: Mapping[int, NDArray[np.float32]]) -> None:
        """Send a lane its actions, and new episodes for environments that are free."""
        starts: list[tuple[int, EpisodePlan]] = []
        for env_id in lane.env_ids:
            if env_id not in lane.episode_of and (plan := self._queue.next(lane.worker)) is not None:
                lane.episode_of[env_id] = plan
                lane.chunk_of[env_id] = 0
                self._recorder.start(plan)
                starts.append((env_id, plan))
        step_ids = tuple(actions)
        if not starts and not step_ids:
            return
        lane.request = PlayRequest(
            start=tuple(plan for _, plan in starts),
            start_ids=tuple(env_id for env_id, _ in starts),
            actions_BCA=np.stack([actions[env_id] for env_id in step_ids]) if step_ids else None,
            step_ids=step_ids,
            film=tuple(env_id for env_id in step_ids if lane.episode_of[env_id].episode in self._request.film),
        )
        self._pending[self._envs[lane.worker].play.remote(lane.request)] = lane


def _rows(observation: Observation, rows: NDArray[np.int64]) -> Observation:
    return Observation(
        observation.images_BNHWC[rows],
        observation.proprio_BP[rows],
        tuple(observation.languages[row] for row in rows),
    )
