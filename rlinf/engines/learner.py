"""One epoch of policy updates from collected experience. Torch only; runs alone or as one rank of many."""

import logging
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from rlinf.algorithms.advantages import group_advantages, informative_groups
from rlinf.algorithms.policy_losses import clipped_policy_loss, masked_entropy_sum, token_weights
from rlinf.config.schema import AlgorithmConfig, OptimConfig
from rlinf.custom.methods import ContinualMethod
from rlinf.data import RolloutBatch
from rlinf.engines.fsdp import clip_gradients
from rlinf.models import Policy, PolicyInputs

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Experience:
    """A collection with what the update needs to know of it: advantages and token weights per sample.

    kept_S: positions of the samples that carry a signal.
    """

    rollouts: RolloutBatch
    advantages_S: Tensor
    weights_SC: Tensor
    kept_S: NDArray[np.int64]
    kept_episodes: float
    """Share of episodes in groups that were kept."""


def prepare_experience(rollouts: RolloutBatch, config: AlgorithmConfig) -> Experience:
    """Advantages, token weights and the reward filter; the same on every rank."""
    returns_E = torch.tensor([episode.total_reward for episode in rollouts.episodes])
    group_E = torch.tensor([episode.plan.group for episode in rollouts.episodes])
    advantages_E = group_advantages(returns_E, group_E, normalize=config.normalize_advantages)
    kept_E = torch.ones_like(group_E, dtype=torch.bool)
    if config.filter_rewards:
        kept_E = informative_groups(
            returns_E, group_E, lower=config.rewards_lower_bound, upper=config.rewards_upper_bound
        )
    episode_S = torch.from_numpy(rollouts.episode_S)
    weights_SC = token_weights(
        torch.from_numpy(rollouts.executed_SC),
        episode_S,
        num_action_dims=rollouts.bins_SCA.shape[2],
        num_episodes=len(rollouts.episodes),
        by=config.loss_aggregation,
    )
    kept_S = np.flatnonzero(kept_E[episode_S].numpy())
    return Experience(rollouts, advantages_E[episode_S], weights_SC, kept_S, float(kept_E.float().mean()))


def minibatches(kept_S: NDArray[np.int64], *, batch_size: int, rng: np.random.Generator) -> list[NDArray[np.int64]]:
    """Shuffle samples into the fewest nearly equal minibatches of at most ``batch_size``."""
    count = -(-len(kept_S) // batch_size)
    return [part for part in np.array_split(rng.permutation(kept_S), max(count, 1)) if len(part)]


def rank_share(
    samples: NDArray[np.int64], *, rank: int, world_size: int, micro_batch: int
) -> list[tuple[NDArray[np.int64], int]]:
    """This rank's micro-batches of a minibatch, each with how many of its first samples count.

    Every rank gets the same number of micro-batches (sharded forwards are collective): where samples do not divide,
    the last one is repeated and does not count.
    """
    per_rank = -(-len(samples) // world_size)
    mine = samples[rank * per_rank : (rank + 1) * per_rank]
    padded = np.concatenate([mine, np.repeat(samples[-1:], per_rank - len(mine))])
    starts = range(0, per_rank, micro_batch)
    return [(padded[i : i + micro_batch], min(max(len(mine) - i, 0), micro_batch)) for i in starts]


class PolicyLearner:
    """AdamW updates of a policy's trainable parameters, with a continual-learning method's hooks."""

    def __init__(
        self,
        policy: Policy,
        method: ContinualMethod,
        *,
        algorithm: AlgorithmConfig,
        optim: OptimConfig,
        global_batch: int,
        micro_batch: int,
        device: torch.device,
    ) -> None:
        self.policy = policy
        self.method = method
        self.optim = optim
        self.algorithm = algorithm
        self.global_batch = global_batch
        self.micro_batch = micro_batch
        self.device = device
        self.rank = dist.get_rank() if dist.is_initialized() else 0
        self.world_size = dist.get_world_size() if dist.is_initialized() else 1
        groups = method.param_groups(policy, optim.lr)
        self.parameters: list[nn.Parameter] = [p for group in groups for p in group.params]
        self.optimizer = torch.optim.AdamW(
            [{"params": group.params, "lr": group.lr, "name": group.name} for group in groups],
            lr=optim.lr,
            betas=(optim.adam_beta1, optim.adam_beta2),
            eps=optim.adam_eps,
            weight_decay=optim.weight_decay,
        )

    def update(self, rollouts: RolloutBatch, *, seed: int, progress: "Progress | None" = None) -> dict[str, float]:
        """All optimizer steps of one epoch. Collective; every rank passes the same rollouts and seed."""
        experience = prepare_experience(rollouts, self.algorithm)
        totals = _Totals(self.device)
        if len(experience.kept_S) == 0:
            log.warning("no group has both successes and failures: no update in this epoch")
        steps = self._schedule(experience, seed)
        for number, (samples, scale) in enumerate(steps):
            self._step(experience, samples, scale=scale, totals=totals)
            if progress is not None:
                progress.advance((number + 1) / len(steps))
        metrics = totals.reduce()
        metrics["train/num_samples"] = float(len(experience.kept_S))
        metrics["train/kept_episodes"] = experience.kept_episodes
        metrics["train/lr"] = float(self.optimizer.param_groups[0]["lr"])
        return metrics

    def _schedule(self, experience: Experience, seed: int) -> list[tuple[NDArray[np.int64], float]]:
        """Minibatches of all passes; a pass of ``k`` minibatches scales each by ``k`` to stand for the whole."""
        steps: list[tuple[NDArray[np.int64], float]] = []
        for passage in range(self.algorithm.update_epoch if len(experience.kept_S) else 0):
            rng = np.random.default_rng([seed, passage])
            batches = minibatches(experience.kept_S, batch_size=self.global_batch, rng=rng)
            steps += [(samples, float(len(batches))) for samples in batches]
        return steps

    def _step(self, experience: Experience, samples: NDArray[np.int64], *, scale: float, totals: "_Totals") -> None:
        """One optimizer step over one minibatch. The loss is a sum over ranks of weighted tokens; FSDP averages
        gradients, hence the factor ``world_size``; ``scale`` makes the minibatch stand for the whole collection."""
        self.optimizer.zero_grad(set_to_none=True)
        shares = rank_share(samples, rank=self.rank, world_size=self.world_size, micro_batch=self.micro_batch)
        for position, (micro, counted) in enumerate(shares):
            self._sync_gradients(position == len(shares) - 1)
            loss = self._loss(experience, micro, counted, totals) * scale
            terms = self.method.loss_terms(self.policy)
            for name, term in terms.items():
                totals.add_mean(f"train/loss/{name}", term.detach(), len(shares))
                loss = loss + term / (len(shares) * self.world_size)
            (loss * self.world_size).backward()
        self.method.on_backward(self.policy)
        norm = clip_gradients(self.parameters, self.optim.clip_grad)
        self.optimizer.step()
        totals.add_step(norm)

    def _loss(self, experience: Experience, micro: NDArray[np.int64], counted: int, totals: "_Totals") -> Tensor:
        part = experience.rollouts.select(micro)
        chosen = torch.from_numpy(micro)
        weights_SC = experience.weights_SC[chosen].to(self.device)
        weights_SC[counted:] = 0
        inputs = PolicyInputs(
            torch.from_numpy(part.frames_SNHWC).to(self.device),
            tuple(part.languages[index] for index in part.language_S),
        )
        bins_SCA = torch.from_numpy(part.bins_SCA).to(self.device)
        temperature = self.algorithm.sampling_params.temperature_train
        out = self.policy.evaluate_actions(inputs, bins_SCA, temperature=temperature)
        result = clipped_policy_loss(
            out.logprobs_BCA,
            torch.from_numpy(part.logprobs_SCA).to(self.device),
            experience.advantages_S[chosen].to(self.device),
            weights_SC,
            clip_low=self.algorithm.clip_ratio_low,
            clip_high=self.algorithm.clip_ratio_high,
        )
        entropy = masked_entropy_sum(out.entropy_BCA, weights_SC)
        mask_SC = weights_SC > 0
        totals.add_tokens(
            loss=result.loss,
            clipped=result.clipped_tokens,
            kl=result.approx_kl_sum,
            entropy=(out.entropy_BCA.detach() * mask_SC[..., None]).sum(),
            tokens=result.num_tokens,
        )
        loss = result.loss - self.algorithm.entropy_bonus * entropy
        if not torch.isfinite(loss):
            raise FloatingPointError(f"policy loss is {loss.item()} for samples {micro[:8].tolist()}...")
        return loss

    def _sync_gradients(self, last: bool) -> None:
        """Reduce gradients over ranks only with the last micro-batch; the others accumulate locally."""
        if isinstance(self.policy.module, FSDPModule):
            self.policy.module.set_requires_gradient_sync(last)


class Progress:
    """Fraction of a long call that is done, for another thread to read."""

    def __init__(self) -> None:
        self.fraction = 0.0

    def advance(self, fraction: float) -> None:
        self.fraction = fraction


class _Totals:
    """Sums over an epoch, reduced over ranks in one collective at its end."""

    NAMES = ("loss", "clipped", "kl", "entropy", "tokens")

    def __init__(self, device: torch.device) -> None:
        self._sums = torch.zeros(len(self.NAMES), device=device, dtype=torch.float64)
        self._norm = torch.zeros((), device=device)
        self._steps = 0
        self._terms: dict[str, Tensor] = {}

    def add_tokens(self, *, loss: Tensor, clipped: Tensor, kl: Tensor, entropy: Tensor, tokens: Tensor) -> None:
        self._sums += torch.stack([x.detach().double() for x in (loss, clipped, kl, entropy, tokens)])

    def add_mean(self, name: str, value: Tensor, count: int) -> None:
        self._terms[name] = self._terms.get(name, torch.zeros_like(value)) + value / count

    def add_step(self, norm: Tensor) -> None:
        self._norm = self._norm + norm.to(self._norm.device)
        self._steps += 1

    def reduce(self) -> dict[str, float]:
        if dist.is_initialized() and dist.get_world_size() > 1:
            dist.all_reduce(self._sums)
        loss, clipped, kl, entropy, tokens = self._sums.tolist()
        metrics = {"train/loss/policy": loss, "train/num_steps": float(self._steps)}
        if tokens:
            metrics |= {
                "train/clip_fraction": clipped / tokens,
                "train/approx_kl": kl / tokens,
                "train/entropy": entropy / tokens,
            }
        if self._steps:
            metrics["train/grad_norm"] = float(self._norm) / self._steps
            metrics |= {name: float(value) / self._steps for name, value in self._terms.items()}
        return metrics
