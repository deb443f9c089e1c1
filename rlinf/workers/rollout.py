"""Inference: plays episodes in the simulator processes attached to it, as fast as they answer."""

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray
from ray.actor import ActorHandle

from rlinf.config.schema import Config, EnvSplitConfig
from rlinf.data import EpisodePlan, EpisodeResult, Observation
from rlinf.engines.distributed import local_device, set_up_torch
from rlinf.engines.fsdp import DTYPES, load_trainable
from rlinf.envs.episodes import EpisodeQueue, EpisodeRecorder
from rlinf.models import Policy, PolicyOutput, PolicySource, load_policy
from rlinf.models.merge import MergedAdapter, scale_adapter
from rlinf.workers.env import PlayRequest, PlayResult, split_lanes


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
    """Outcome of a collection; ``batches`` refer to a ``RolloutBatch`` of each episode in the object store, in order of
    the episodes' numbers."""

    results: tuple[EpisodeResult, ...]
    batches: "tuple[ray.ObjectRef[Any], ...]"
    videos: tuple[tuple[EpisodeResult, tuple[NDArray[np.uint8], ...]], ...]
    inference_s: float
    waiting_s: float
    num_chunks: int


@dataclass(frozen=True)
class _Acted:
    """What an environment was shown and what the policy answered: one row of a rollout."""

    frames_NHWC: NDArray[np.uint8]
    bins_CA: NDArray[np.int64]
    logprobs_CA: NDArray[np.float32]
    value: np.float32 | None


@dataclass
class _Lane:
    """A group of environments of one simulator process, and the observation each one waits to act on."""

    worker: int
    env_ids: Sequence[int]
    episode_of: dict[int, EpisodePlan] = field(default_factory=dict)
    chunk_of: dict[int, int] = field(default_factory=dict)
    request: PlayRequest | None = None
    step_inputs: dict[int, _Acted] = field(default_factory=dict)


class RolloutWorker:
    """Holds one copy of the policy."""

    def __init__(self, config: Config, source: PolicySource) -> None:
        set_up_torch(config.rollout.num_threads or max(1, (os.cpu_count() or 1) // 2))
        self._config = config
        self._policy = self.load(config, replace(source, trains=False, cuda_graphs=config.rollout.cuda_graphs))
        self._policy.to(local_device())
        self._lora_scale = 1.0
        self._merged = MergedAdapter(self._policy.module) if config.rollout.merge_adapter else None
        self._envs: list[ActorHandle[Any]] = []
        self._done = 0
        self._successes = 0

    def load(self, config: Config, source: PolicySource) -> Policy:
        """The policy that acts, on the CPU."""
        return load_policy(config.actor.model, source, base_dtype=DTYPES[config.rollout.precision])

    def attach(self, envs: "Sequence[ActorHandle[Any]]") -> None:
        """The simulator processes that this worker plays in."""
        self._envs = list(envs)

    def load_weights(self, tensors: Mapping[str, NDArray[np.float32]]) -> None:
        """Take over the learner's trainable tensors."""
        load_trainable(self._policy.module, dict(tensors))
        if self._merged is not None:
            self._merged.refresh()

    def scale(self, factor: float) -> None:
        """Let the adapter count ``factor`` times from now on."""
        if factor != self._lora_scale:
            scale_adapter(self._policy.module, factor)
            self._lora_scale = factor
            if self._merged is not None:
                self._merged.refresh()

    @ray.method(concurrency_group="watch")
    def progress(self) -> tuple[int, int]:
        """Finished episodes of the running collection, and how many succeeded."""
        return self._done, self._successes

    def collect(self, request: CollectRequest) -> Collected:
        """Play ``request.plans``; whole episodes only.

        Each simulator process works on one of its lanes while the others' observations are looked at here; all lanes
        that have answered are looked at together.
        """
        self.scale(request.lora_scale)
        ray.get([env.configure.remote(request.split) for env in self._envs])
        queue, recorder = EpisodeQueue(request.plans), EpisodeRecorder(ray.put)
        films: dict[int, list[NDArray[np.uint8]]] = {number: [] for number in sorted(request.film)}
        self._done = self._successes = 0
        clock = _Clock()
        pending: dict[ray.ObjectRef[Any], _Lane] = {}
        lanes = split_lanes(self._config.env.num_envs_per_worker, self._config.env.pipeline_stages)
        for lane_ids in lanes:
            for worker in range(len(self._envs)):
                self._submit(_Lane(worker, lane_ids), {}, queue, recorder, request, pending)
        num_chunks = 0
        while pending:
            with clock.waiting():
                answered = self._answered(pending)
            acting: list[tuple[_Lane, int]] = []
            observations: list[Observation] = []
            for lane, result in answered:
                rows, seen = self._absorb(lane, result, recorder, films, request.keep_samples)
                acting += [(lane, env_id) for env_id in rows]
                observations += seen
            actions: dict[tuple[int, int], NDArray[np.float32]] = {}
            with clock.inferring():
                if acting:
                    actions = self._act(acting, Observation.cat(observations), request)
            num_chunks += len(acting)
            for lane, _ in answered:
                own = {env: action for (number, env), action in actions.items() if number == id(lane)}
                self._submit(lane, own, queue, recorder, request, pending)
        results = recorder.results()
        by_number = {result.plan.episode: result for result in results}
        return Collected(
            results=tuple(results),
            batches=tuple(recorder.batches()),
            videos=tuple((by_number[number], tuple(frames)) for number, frames in films.items() if number in by_number),
            inference_s=clock.inference_s,
            waiting_s=clock.waiting_s,
            num_chunks=num_chunks,
        )

    def _answered(self, pending: "dict[ray.ObjectRef[Any], _Lane]") -> list[tuple[_Lane, PlayResult]]:
        """Wait for a lane, then take every other one that is ready too, within the largest batch."""
        refs = list(pending)
        lane_size = self._config.env.num_envs_per_worker // self._config.env.pipeline_stages
        most = max(1, self._config.rollout.max_batch // lane_size)
        ray.wait(refs, num_returns=1)
        ready, _ = ray.wait(refs, num_returns=min(most, len(refs)), timeout=0)
        return [(pending.pop(ref), ray.get(ref)) for ref in ready]

    def _absorb(
        self,
        lane: _Lane,
        result: PlayResult,
        recorder: EpisodeRecorder,
        films: dict[int, list[NDArray[np.uint8]]],
        keep_samples: bool,
    ) -> tuple[list[int], list[Observation]]:
        """Record what a lane's environments did; returns those that wait for an action, with what they show."""
        assert lane.request is not None
        rows: list[int] = []
        seen: list[Observation] = []
        step_ids = list(lane.request.step_ids)
        if result.step is not None:
            acted = [lane.step_inputs[env_id] for env_id in step_ids]
            values = [item.value for item in acted if item.value is not None]
            numbers = [lane.episode_of[env_id].episode for env_id in step_ids]
            finished = recorder.add(
                numbers,
                frames_BNHWC=np.stack([item.frames_NHWC for item in acted]),
                languages=result.step.observation.languages,
                bins_BCA=np.stack([item.bins_CA for item in acted]),
                logprobs_BCA=np.stack([item.logprobs_CA for item in acted]),
                step=result.step,
                keep_samples=keep_samples,
                values_B=np.array(values, np.float32) if values else None,
            )
            for env_id, frames in result.step.video_frames.items():
                films[lane.episode_of[env_id].episode].extend(frames)
            self._done += len(finished)
            self._successes += sum(outcome.success_once for outcome in finished)
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

    def _act(
        self, acting: Sequence[tuple[_Lane, int]], observation: Observation, request: CollectRequest
    ) -> dict[tuple[int, int], NDArray[np.float32]]:
        """Actions for every waiting environment; what the learner needs is kept in its lane."""
        inputs = self._policy.prepare(observation)
        shape = self._policy.chunk_shape
        uniforms = np.stack([
            np.random.default_rng(
                [*request.stream, lane.episode_of[env_id].episode, lane.chunk_of[env_id]]
            ).random(shape)
            for lane, env_id in acting
        ])  # fmt: skip
        output: PolicyOutput = self._policy.act(inputs, temperature=request.temperature, uniforms_BCA=uniforms)
        frames = inputs.frames_BNHWC.cpu().numpy()
        bins, logprobs = output.bins_BCA.cpu().numpy(), output.logprobs_BCA.float().cpu().numpy()
        values = None if output.values_B is None else output.values_B.float().cpu().numpy()
        actions = {}
        for row, (lane, env_id) in enumerate(acting):
            value = None if values is None else values[row]
            lane.step_inputs[env_id] = _Acted(frames[row], bins[row], logprobs[row], value)
            lane.chunk_of[env_id] += 1
            actions[id(lane), env_id] = output.env_actions_BCA[row]
        return actions

    def _submit(
        self,
        lane: _Lane,
        actions: Mapping[int, NDArray[np.float32]],
        queue: EpisodeQueue,
        recorder: EpisodeRecorder,
        request: CollectRequest,
        pending: "dict[ray.ObjectRef[Any], _Lane]",
    ) -> None:
        """Send a lane its actions, and new episodes for environments that are free."""
        starts: list[tuple[int, EpisodePlan]] = []
        for env_id in lane.env_ids:
            if env_id not in lane.episode_of and (plan := queue.next(lane.worker)) is not None:
                lane.episode_of[env_id] = plan
                lane.chunk_of[env_id] = 0
                recorder.start(plan)
                starts.append((env_id, plan))
        step_ids = tuple(actions)
        if not starts and not step_ids:
            return
        lane.request = PlayRequest(
            start=tuple(plan for _, plan in starts),
            start_ids=tuple(env_id for env_id, _ in starts),
            actions_BCA=np.stack([actions[env_id] for env_id in step_ids]) if step_ids else None,
            step_ids=step_ids,
            film=tuple(env_id for env_id in step_ids if lane.episode_of[env_id].episode in request.film),
        )
        pending[self._envs[lane.worker].play.remote(lane.request)] = lane


def _rows(observation: Observation, rows: NDArray[np.int64]) -> Observation:
    return Observation(
        observation.images_BNHWC[rows],
        observation.proprio_BP[rows],
        tuple(observation.languages[row] for row in rows),
    )


class _Clock:
    """Adds up what the worker's time goes into."""

    def __init__(self) -> None:
        self.inference_s = 0.0
        self.waiting_s = 0.0

    def inferring(self) -> "_Span":
        return _Span(self, "inference_s")

    def waiting(self) -> "_Span":
        return _Span(self, "waiting_s")


class _Span:
    def __init__(self, clock: _Clock, name: str) -> None:
        self._clock, self._name, self._start = clock, name, 0.0

    def __enter__(self) -> None:
        self._start = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        total = getattr(self._clock, self._name) + time.perf_counter() - self._start
        setattr(self._clock, self._name, total)
