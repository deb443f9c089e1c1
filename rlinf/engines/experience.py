"""What the update needs to know of a collection, and how its samples are shared out. The same on every rank."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rlinf.algorithms.advantages import (
    generalized_advantages,
    group_advantages,
    informative_groups,
    leave_one_out_advantages,
    standardize,
)
from rlinf.algorithms.policy_losses import token_weights
from rlinf.config.schema import AlgorithmConfig
from rlinf.data import RolloutBatch
from rlinf.models import PolicyInputs
from rlinf.models.transfer import sent


@dataclass(frozen=True)
class Critic:
    """What the value function is trained with: its answers during the rollouts, and the returns to come closer to."""

    values_S: Tensor
    returns_S: Tensor

    def explained_variance(self, kept_S: NDArray[np.int64]) -> float:
        """Share of the returns' variance that the rollouts' values explain: 1 is perfect, 0 or less is useless."""
        returns_S, values_S = self.returns_S[kept_S], self.values_S[kept_S]
        spread = returns_S.var(correction=0)
        return float(1 - (returns_S - values_S).var(correction=0) / spread) if spread > 0 else 0.0


@dataclass(frozen=True)
class Experience:
    """A collection with what the update needs to know of it: advantages and token weights per sample.

    kept_S: positions of the samples that carry a signal.
    critic: None without a value function (GRPO).
    """

    rollouts: RolloutBatch
    advantages_S: Tensor
    weights_SC: Tensor
    kept_S: NDArray[np.int64]
    kept_episodes: float
    """Share of episodes in groups that were kept."""
    critic: Critic | None = None
    proximal_SCA: Tensor | None = None
    """Log-probabilities of the kept samples under the policy that the update starts from; None where the rollouts' are
    these."""

    def policy_lag(self, version: int, *, most: int) -> float:
        """Mean of the epochs by which the kept samples' policy is older than the one of ``version``.

        Raises:
            ValueError: one is newer, or more than ``most`` older.
        """
        lag_E = np.array([version - episode.policy_version for episode in self.rollouts.episodes])
        if lag_E.min() < 0 or lag_E.max() > most:
            raise ValueError(
                f"samples of policies {lag_E.min()} to {lag_E.max()} epochs old came to the update of epoch {version}, "
                f"expected 0 to {most}"
            )
        return float(lag_E[self.rollouts.episode_S[self.kept_S]].mean()) if len(self.kept_S) else 0.0


def prepare_experience(rollouts: RolloutBatch, config: AlgorithmConfig) -> Experience:
    """Advantages, token weights and the reward filter; the same on every rank.

    Raises ValueError where there are no samples.
    """
    if rollouts.num_samples == 0:
        raise ValueError(
            f"a collection to learn from must have at least one sample, given none of {len(rollouts.episodes)} "
            "episodes: collect before the update"
        )
    returns_E = torch.tensor([episode.total_reward for episode in rollouts.episodes])
    group_E = torch.tensor([episode.plan.group for episode in rollouts.episodes])
    kept_E = torch.ones_like(group_E, dtype=torch.bool)
    if config.adv_type == "success":
        kept_E = torch.tensor([episode.success_once for episode in rollouts.episodes])
    elif config.filter_rewards:
        kept_E = informative_groups(
            returns_E, group_E, lower=config.rewards_lower_bound, upper=config.rewards_upper_bound
        )
    episode_S = torch.from_numpy(rollouts.episode_S)
    executed_SC = torch.from_numpy(rollouts.executed_SC)
    imitates = config.loss_type == "sft"
    weights_SC = token_weights(
        executed_SC & kept_E[episode_S][:, None] if imitates else executed_SC,
        episode_S,
        num_action_dims=rollouts.bins_SCA.shape[2],
        num_episodes=len(rollouts.episodes),
        by=config.loss_aggregation,
    )
    if imitates:  # a mean over what is imitated, however few succeeded
        weights_SC = weights_SC / (weights_SC.sum() * rollouts.bins_SCA.shape[2]).clamp(min=1e-12)
    kept_S = np.flatnonzero(kept_E[episode_S].numpy())
    critic = None
    if config.adv_type == "gae":
        advantages_S, critic = _critic_advantages(rollouts, kept_S, config)
    elif config.adv_type == "success":
        advantages_S = kept_E[episode_S].float()
    elif config.adv_type == "rloo":
        advantages_S = leave_one_out_advantages(returns_E, group_E)[episode_S]
    else:
        advantages_S = group_advantages(returns_E, group_E, normalize=config.normalize_advantages)[episode_S]
    return Experience(rollouts, advantages_S, weights_SC, kept_S, float(kept_E.float().mean()), critic)


def _critic_advantages(
    rollouts: RolloutBatch, kept_S: NDArray[np.int64], config: AlgorithmConfig
) -> tuple[Tensor, Critic]:
    """Advantages of chunks against the values that the policy gave while it played.

    A step of the estimator is a chunk, rewarded with the sum of its actions' rewards. After the last chunk of an
    episode comes nothing, whether it ended by success or by the step limit: the limit belongs to the task, which asks
    for success within it, and the published code treats both alike.
    """
    if rollouts.values_S is None:
        raise ValueError("adv_type=gae needs the values of the rollouts, but the policy that played has no value head")
    values_S = torch.from_numpy(rollouts.values_S)
    advantages_S, returns_S = generalized_advantages(
        torch.from_numpy(rollouts.rewards_SC).sum(1),
        values_S,
        torch.from_numpy(rollouts.episode_S),
        gamma=config.gamma,
        gae_lambda=config.gae_lambda,
    )
    if config.normalize_advantages and len(kept_S):
        advantages_S = standardize(advantages_S, torch.from_numpy(kept_S))
    return advantages_S, Critic(values_S, returns_S)


def minibatches(kept_S: NDArray[np.int64], *, batch_size: int, rng: np.random.Generator) -> list[NDArray[np.int64]]:
    """Shuffle samples into the fewest nearly equal minibatches of at most ``batch_size``."""
    count = -(-len(kept_S) // batch_size)
    return [part for part in np.array_split(rng.permutation(kept_S), max(count, 1)) if len(part)]


def rank_share(
    samples: NDArray[np.int64], *, rank: int, world_size: int, micro_batch: int
) -> list[tuple[NDArray[np.int64], int]]:
    """This rank's micro-batches of a minibatch, each with how many of its first samples count.

    Every rank gets the same number of micro-batches (sharded forwards are collective), the fewest of at most
    ``micro_batch`` and nearly equal, since a method's terms are means over each: where samples do not divide, the last
    one is repeated and does not count.
    """
    per_rank = -(-len(samples) // world_size)
    mine = samples[rank * per_rank : (rank + 1) * per_rank]
    padded = np.concatenate([mine, np.repeat(samples[-1:], per_rank - len(mine))])
    parts = np.array_split(padded, -(-per_rank // micro_batch))
    starts = np.cumsum([0, *map(len, parts)])
    return [(part, int(np.clip(len(mine) - start, 0, len(part)))) for start, part in zip(starts, parts, strict=False)]


@dataclass(frozen=True)
class MicroBatch:
    """Samples with what is known of them.

    weights_SC: of the policy loss; zero for samples that are there only to fill the batch.
    critic: None without a value function.
    proximal_SCA: as of ``Experience``.
    """

    inputs: PolicyInputs
    bins_SCA: Tensor
    logprobs_SCA: Tensor
    advantages_S: Tensor
    weights_SC: Tensor
    critic: Critic | None
    proximal_SCA: Tensor | None

    @staticmethod
    def gather(
        experience: Experience, samples: NDArray[np.int64], *, counted: int, device: torch.device
    ) -> "MicroBatch":
        """The ``samples``, of which the first ``counted`` count. Does not wait for what a GPU has begun."""
        part, chosen, critic = experience.rollouts.select(samples), torch.from_numpy(samples), experience.critic
        proximal_SCA = experience.proximal_SCA
        weights_SC = experience.weights_SC[chosen]
        weights_SC[counted:] = 0
        return MicroBatch(
            inputs=PolicyInputs(
                sent(torch.from_numpy(np.asarray(part.frames_SNHWC)), device),
                tuple(part.languages[index] for index in part.language_S),
            ),
            bins_SCA=sent(torch.from_numpy(part.bins_SCA), device),
            logprobs_SCA=sent(torch.from_numpy(part.logprobs_SCA), device),
            advantages_S=sent(experience.advantages_S[chosen], device),
            weights_SC=sent(weights_SC, device),
            critic=critic and Critic(sent(critic.values_S[chosen], device), sent(critic.returns_S[chosen], device)),
            proximal_SCA=None if proximal_SCA is None else sent(proximal_SCA[chosen], device),
        )


def save_samples(path: Path, experience: Experience, samples: NDArray[np.int64]) -> None:
    """Write everything that is known of ``samples`` as arrays, for ``numpy.load``: the fields of ``RolloutBatch`` and
    each sample's position, advantage, weights, instruction, task and initial state, and return with a critic."""
    part = experience.rollouts.select(samples)
    arrays = {field.name: getattr(part, field.name) for field in fields(part)}
    plans = [part.episodes[index].plan for index in part.episode_S]
    kept: dict[str, Any] = {name: array for name, array in arrays.items() if isinstance(array, np.ndarray)}
    kept |= {
        "position_S": samples,
        "advantages_S": experience.advantages_S[torch.from_numpy(samples)].numpy(),
        "weights_SC": experience.weights_SC[torch.from_numpy(samples)].numpy(),
        "languages_S": np.array([part.languages[index] for index in part.language_S]),
        "task_id_S": np.array([plan.task_id for plan in plans]),
        "init_index_S": np.array([plan.init_index for plan in plans]),
    }
    if experience.critic is not None:
        kept["returns_S"] = experience.critic.returns_S[torch.from_numpy(samples)].numpy()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        np.savez_compressed(file, **kept)
