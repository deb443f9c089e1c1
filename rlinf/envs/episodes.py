"""Which episodes to play where, and turning their steps into experience. Pure bookkeeping, no simulator."""

from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rlinf.data import EnvStep, EpisodePlan, EpisodeResult, RolloutBatch


def training_plans(
    *,
    suite: str,
    task_ids: Sequence[int],
    init_states: Sequence[Sequence[int]],
    num_groups: int,
    group_size: int,
    seed: int,
    epoch: int,
) -> list[EpisodePlan]:
    """``num_groups`` groups of ``group_size`` rollouts; a group shares its task, initial state and seed.

    init_states: of each task, those to play. They are drawn without replacement until all were used; tasks take turns.
        The draw depends on ``seed`` and ``epoch`` alone.
    """
    rng = np.random.default_rng([seed, epoch])
    queues: dict[int, list[int]] = {task: [] for task in task_ids}
    offset = int(rng.integers(len(task_ids)))
    plans: list[EpisodePlan] = []
    for group in range(num_groups):
        position = (group + offset) % len(task_ids)
        task = task_ids[position]
        queues[task] = queues[task] or rng.permutation(init_states[position]).tolist()
        init_index = queues[task].pop()
        members = range(group * group_size, (group + 1) * group_size)
        plans += [EpisodePlan(episode, group, suite, task, init_index, seed) for episode in members]
    return plans


def evaluation_plans(
    *, suite: str, task_ids: Sequence[int], init_states: Sequence[Sequence[int]], episodes_per_task: int, seed: int
) -> list[EpisodePlan]:
    """``episodes_per_task`` episodes of each task from its ``init_states`` in order (again when they run out)."""
    plans: list[EpisodePlan] = []
    for task, states in zip(task_ids, init_states, strict=True):
        for index in range(episodes_per_task):
            round_seed = seed + index // len(states)
            plans.append(EpisodePlan(len(plans), -1, suite, task, states[index % len(states)], round_seed))
    return plans


def environments_at_a_time(num_episodes: int, num_envs: int) -> int:
    """How many of ``num_envs`` environments to use so that they need no more rounds, but all are busy to the end.

    With more, few are left in the last round, and a policy that could act on many acts on few at a time.
    """
    rounds = -(-num_episodes // num_envs)
    return -(-num_episodes // max(rounds, 1))


class EpisodeQueue:
    """Hands out episodes so that a worker keeps to few tasks (building a scene costs seconds and memory).

    A worker gets another episode of the task it had last while there is one, else the task that the fewest workers
    are busy with per remaining episode.
    """

    def __init__(self, plans: Sequence[EpisodePlan]) -> None:
        self._waiting: dict[int, deque[EpisodePlan]] = defaultdict(deque)
        for plan in plans:
            self._waiting[plan.task_id].append(plan)
        self._task_of: dict[int, int] = {}

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def next(self, worker: int) -> EpisodePlan | None:
        """The next episode for ``worker``, or None when all are handed out."""
        task = self._task_of.get(worker)
        if task is None or not self._waiting[task]:
            open_tasks = [task for task, plans in self._waiting.items() if plans]
            if not open_tasks:
                return None
            busy = list(self._task_of.values())
            task = max(open_tasks, key=lambda t: len(self._waiting[t]) / (1 + busy.count(t)))
            self._task_of[worker] = task
        return self._waiting[task].popleft()

    def put_back(self, plans: Sequence[EpisodePlan]) -> None:
        """Episodes that were begun and could not be finished."""
        for plan in plans:
            self._waiting[plan.task_id].appendleft(plan)


class EpisodeRecorder:
    """Collects the chunks of running episodes; a finished episode becomes samples and a result.

    Complete episodes only: what is still running when ``batches`` is called is left out.
    """

    def __init__(self, put: Callable[[RolloutBatch], Any] = lambda batch: batch, *, policy_version: int = 0) -> None:
        """``put`` is given the samples of each episode when it ends, and ``batches`` returns what it gave. With Ray's
        ``put`` only the samples of running episodes take memory here. policy_version: of the weights that act."""
        self._put = put
        self._policy_version = policy_version
        self._running: dict[int, _Episode] = {}
        self._results: dict[int, EpisodeResult] = {}
        self._batches: dict[int, Any] = {}
        self.num_done = self.num_successes = 0
        """Finished episodes, and those of them that succeeded; other threads may read them."""

    def start(self, plan: EpisodePlan) -> None:
        """Begin an episode."""
        self._running[plan.episode] = _Episode(plan, self._policy_version)

    def act(
        self,
        episodes: Sequence[int],
        *,
        images_BNHWC: NDArray[np.uint8],
        bins_BCA: NDArray[np.int64],
        logprobs_BCA: NDArray[np.float32],
        values_B: NDArray[np.float32] | None = None,
    ) -> None:
        """Keep what ``episodes`` showed and what the policy answered, for the learner; ``step`` says what came of it.
        Without it an episode becomes a result and no samples."""
        for row, number in enumerate(episodes):
            # A view would keep the images of the whole batch until the longest of its episodes ends.
            self._running[number].acted.append((images_BNHWC[row].copy(), bins_BCA[row], logprobs_BCA[row]))
            if values_B is not None:
                self._running[number].values.append(values_B[row])

    def step(self, episodes: Sequence[int], step: EnvStep) -> None:
        """Record what one chunk did to each of ``episodes``."""
        for row, number in enumerate(episodes):
            episode, executed = self._running[number], step.executed_BC[row]
            episode.language = step.observation.languages[row]
            episode.num_steps += int(executed.sum())
            episode.total_reward += float(step.rewards_BC[row].sum())
            episode.success_once |= bool(step.success_BC[row][executed].any())
            episode.success_at_end = bool(step.success_BC[row, -1])
            if episode.acted:  # copies: a view of what came through Ray keeps all that came with it
                episode.outcomes.append((executed.copy(), step.rewards_BC[row].copy()))
            if step.done_B[row]:
                del self._running[number]
                self._results[number] = result = episode.result()
                if episode.acted:
                    self._batches[number] = self._put(episode.batch())
                self.num_done += 1
                self.num_successes += result.success_once

    def results(self) -> list[EpisodeResult]:
        """Results of finished episodes in order of their numbers."""
        return [self._results[number] for number in sorted(self._results)]

    def batches(self) -> list[Any]:
        """Samples of finished episodes as ``put`` gave them back, in order of their numbers, so that the outcome does
        not depend on timing."""
        return [self._batches[number] for number in sorted(self._batches)]


@dataclass
class _Episode:
    """A running episode. acted: images, bins and log-probabilities of each chunk; outcomes: which of its actions were
    carried out, and their rewards."""

    plan: EpisodePlan
    policy_version: int
    acted: list[tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.float32]]] = field(default_factory=list)
    outcomes: list[tuple[NDArray[np.bool_], NDArray[np.float32]]] = field(default_factory=list)
    values: list[np.float32] = field(default_factory=list)
    language: str = ""
    num_steps: int = 0
    total_reward: float = 0.0
    success_once: bool = False
    success_at_end: bool = False

    def result(self) -> EpisodeResult:
        return EpisodeResult(
            self.plan,
            self.success_once,
            self.success_at_end,
            self.total_reward,
            self.num_steps,
            self.policy_version,
        )

    def batch(self) -> RolloutBatch:
        frames, bins, logprobs = zip(*self.acted, strict=True)
        executed, rewards = zip(*self.outcomes, strict=True)
        return RolloutBatch(
            frames_SNHWC=np.stack(frames),
            languages=(self.language,),
            language_S=np.zeros(len(frames), np.int64),
            bins_SCA=np.stack(bins),
            logprobs_SCA=np.stack(logprobs),
            executed_SC=np.stack(executed),
            rewards_SC=np.stack(rewards),
            episode_S=np.zeros(len(frames), np.int64),
            episodes=(self.result(),),
            values_S=np.array(self.values, np.float32) if self.values else None,
        )
