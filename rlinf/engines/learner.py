"""One epoch of policy updates from collected experience. Torch only; runs alone or as one rank of many."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor, nn

from rlinf.algorithms.policy_losses import (
    PolicyLoss,
    behaviour_weights,
    clipped_policy_loss,
    imitation_loss,
    masked_entropy_sum,
)
from rlinf.algorithms.value_losses import clipped_value_loss
from rlinf.config.errors import DivergedError
from rlinf.config.schema import AlgorithmConfig, OptimConfig
from rlinf.custom.methods import ContinualMethod, ParamGroup
from rlinf.data import RolloutBatch
from rlinf.engines.experience import (
    Critic,
    Experience,
    MicroBatch,
    minibatches,
    prepare_experience,
    rank_share,
    save_samples,
)
from rlinf.engines.fsdp import accumulation, clip_gradients
from rlinf.models import Policy
from rlinf.models.shards import rank_and_size
from rlinf.models.transfer import sent

log = logging.getLogger(__name__)

_OF_RATIOS = ("train/clip_fraction", "train/approx_kl", "train/logprob_gap")
BAD_BATCH_FILE = "bad_batch.npz"


class PolicyLearner:
    """AdamW updates of a policy's trainable parameters, with a continual-learning method's hooks.

    folder: the run's; a batch without a finite loss or gradient is saved there.
    num_updates: optimizer steps of the run so far.
    """

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
        self.rank, self.world_size = rank_and_size()
        self.folder: Path | None = None
        self.num_updates = 0
        groups = method.param_groups(policy, optim.lr)
        self._policy_lrs = [group.lr for group in groups]
        self._policy_parameters = [p for group in groups for p in group.params]
        self._value_parameters: list[nn.Parameter] = []
        if policy.value_head is not None:
            self._value_parameters = list(policy.value_head.parameters())
            groups = [*groups, ParamGroup("value", self._value_parameters, optim.value_lr)]
        self.optimizer = torch.optim.AdamW(
            [{"params": group.params, "lr": group.lr, "name": group.name} for group in groups],
            lr=optim.lr,
            betas=(optim.adam_beta1, optim.adam_beta2),
            eps=optim.adam_eps,
            weight_decay=optim.weight_decay,
        )

    def update(
        self,
        rollouts: RolloutBatch,
        *,
        seed: int,
        version: int | None = None,
        report: Callable[[float], None] = lambda fraction: None,
    ) -> dict[str, float]:
        """All optimizer steps of one epoch; ``report`` is told the share of them that is done. Collective; every rank
        passes the same rollouts, seed and version.

        version: epochs of updates that the policy has had. Where that is more than the rollouts' policy had had, the
        loss is the decoupled one; None: they are this policy's.

        Raises:
            ValueError: no rollouts, or of a policy older than ``max_policy_lag`` allows.
            DivergedError: a loss or a gradient is not finite, or all gradients are zero.
        """
        experience = prepare_experience(rollouts, self.algorithm)
        totals = _Totals(self.device)
        if len(experience.kept_S) == 0:
            log.warning("no group has both successes and failures: no update in this epoch")
        steps = self._schedule(experience, seed)
        most = self.algorithm.max_policy_lag
        lag = 0.0 if version is None else experience.policy_lag(version, most=most)
        if lag:
            experience = replace(experience, proximal_SCA=self._proximal(experience))
        for number, (samples, scale) in enumerate(steps):
            self._step(experience, samples, scale=scale, totals=totals)
            report((number + 1) / len(steps))
        metrics = totals.reduce(passes=self.algorithm.update_epoch)
        if steps and self.num_updates > self.optim.critic_warmup_steps:
            _require_gradient(metrics, experience)
        if self.algorithm.loss_type == "sft":  # which compares with no other policy
            metrics = {name: value for name, value in metrics.items() if name not in _OF_RATIOS}
        metrics["train/num_samples"] = float(len(experience.kept_S))
        metrics["train/kept_episodes"] = experience.kept_episodes
        if experience.critic is not None:
            metrics["train/explained_variance"] = experience.critic.explained_variance(experience.kept_S)
        if most:
            metrics["train/policy_lag"] = lag
        metrics["train/lr"] = float(self.optimizer.param_groups[0]["lr"])
        return metrics

    def _schedule(self, experience: Experience, seed: int) -> list[tuple[NDArray[np.int64], float]]:
        """Minibatches of all epochs over the samples; an epoch of ``k`` scales each by ``k`` to stand for the whole."""
        steps: list[tuple[NDArray[np.int64], float]] = []
        for epoch in range(self.algorithm.update_epoch if len(experience.kept_S) else 0):
            rng = np.random.default_rng([seed, epoch])
            batches = minibatches(experience.kept_S, batch_size=self.global_batch, rng=rng)
            steps += [(samples, float(len(batches))) for samples in batches]
        return steps

    @torch.no_grad()
    def _proximal(self, experience: Experience) -> Tensor:
        """Log-probabilities of the kept samples as the policy is now; zeros for others. Collective: ranks share the
        samples and all get everything, since each pass deals the samples anew."""
        proximal_SCA = torch.zeros(experience.rollouts.logprobs_SCA.shape, device=self.device)
        temperature = self.algorithm.sampling_params.temperature_train
        for micro, counted in self._shares(experience.kept_S):
            batch = MicroBatch.gather(experience, micro, counted=counted, device=self.device)
            out = self.policy.evaluate_actions(batch.inputs, batch.bins_SCA, temperature=temperature)
            proximal_SCA[sent(torch.from_numpy(micro[:counted]), self.device)] = out.logprobs_BCA[:counted].float()
        if self.world_size > 1:
            dist.all_reduce(proximal_SCA)
        return proximal_SCA.cpu()

    def _shares(self, samples: NDArray[np.int64]) -> list[tuple[NDArray[np.int64], int]]:
        return rank_share(samples, rank=self.rank, world_size=self.world_size, micro_batch=self.micro_batch)

    def _step(self, experience: Experience, samples: NDArray[np.int64], *, scale: float, totals: "_Totals") -> None:
        """One optimizer step over one minibatch. The loss is a sum over ranks of weighted tokens; FSDP averages
        gradients, hence the factor ``world_size``; ``scale`` makes the minibatch stand for the whole collection."""
        self.optimizer.zero_grad(set_to_none=True)
        shares = self._shares(samples)
        seen: list[dict[str, Tensor]] = []
        with accumulation(self.policy, keeps_weights=not self.method.needs_shards()) as begin:
            for position, (micro, counted) in enumerate(shares):
                begin(position == len(shares) - 1)
                batch = MicroBatch.gather(experience, micro, counted=counted, device=self.device)
                losses = self._losses(batch, totals)
                terms = self.method.loss_terms(self.policy)
                seen.append({name: value.detach() for name, value in (losses | terms).items()})
                loss = sum(losses.values(), start=torch.zeros((), device=self.device)) * scale
                for name, term in terms.items():
                    totals.add_mean(f"train/loss/{name}", term.detach(), len(shares))
                    loss = loss + term / (len(shares) * self.world_size)
                (loss * self.world_size).backward()
        # Looked at only now: each look makes a GPU run out of work.
        self._require_finite(seen, experience, [micro for micro, _ in shares])
        self.method.on_backward(self.policy)
        if self.policy.value_head is not None and self.num_updates < self.optim.critic_warmup_steps:
            for parameter in self._policy_parameters:
                parameter.grad = None
        # Apart: a young critic's gradient is many times the policy's and would scale it away.
        norms = {
            "policy": clip_gradients(self._policy_parameters, self.optim.clip_grad),
            "value": clip_gradients(self._value_parameters, self.optim.clip_grad),
        }
        self._require_finite_gradients(norms, experience, samples)
        self._warm_up()
        self.optimizer.step()
        self.num_updates += 1
        totals.add_step(norms["policy"])

    def _warm_up(self) -> None:
        """Set the policy's learning rates for the next step, from their sizes after the warm-up and the number of
        updates alone, so that a resumed run takes the same."""
        taken = self.num_updates - (self.optim.critic_warmup_steps if self.policy.value_head is not None else 0)
        factor = min(1.0, max(0, taken + 1) / max(1, self.optim.lr_warmup_steps))
        for group, lr in zip(self.optimizer.param_groups, self._policy_lrs, strict=False):  # a value head's comes last
            group["lr"] = lr * factor

    def _losses(self, batch: MicroBatch, totals: "_Totals") -> dict[str, Tensor]:
        """Losses of a micro-batch by name; their sum is minimised."""
        executed_SC = batch.weights_SC > 0
        self.method.before_forward(self.policy, batch.inputs, batch.bins_SCA, executed_SC)
        temperature = self.algorithm.sampling_params.temperature_train
        out = self.policy.evaluate_actions(batch.inputs, batch.bins_SCA, temperature=temperature)
        result = self._policy_loss(out.logprobs_BCA, batch)
        entropy = masked_entropy_sum(out.entropy_BCA, batch.weights_SC)
        totals.add_tokens(
            loss=result.loss,
            clipped=result.clipped_tokens,
            kl=result.approx_kl_sum,
            gap=result.gap_sum,
            entropy=(out.entropy_BCA.detach() * executed_SC[..., None]).sum(),
            tokens=result.num_tokens,
        )
        losses = {"policy": result.loss - self.algorithm.entropy_bonus * entropy}
        if batch.critic is not None:
            assert out.values_B is not None
            losses["value"] = self._value_loss(out.values_B, batch.critic, batch.weights_SC, totals)
        return losses

    def _policy_loss(self, logprobs_SCA: Tensor, batch: MicroBatch) -> PolicyLoss:
        if self.algorithm.loss_type == "sft":
            return imitation_loss(logprobs_SCA, batch.weights_SC)
        old_SCA, behaviour_SCA = batch.logprobs_SCA, None
        if batch.proximal_SCA is not None:
            cap = self.algorithm.lag_weight_cap
            old_SCA, behaviour_SCA = batch.proximal_SCA, behaviour_weights(batch.proximal_SCA, old_SCA, cap=cap)
        return clipped_policy_loss(
            logprobs_SCA,
            old_SCA,
            batch.advantages_S,
            batch.weights_SC,
            clip_low=self.algorithm.clip_ratio_low,
            clip_high=self.algorithm.clip_ratio_high,
            dual_clip=self.algorithm.clip_ratio_dual,
            ratio=self.algorithm.importance_ratio,
            behaviour_SCA=behaviour_SCA,
        )

    def _value_loss(self, values_S: Tensor, critic: Critic, weights_SC: Tensor, totals: "_Totals") -> Tensor:
        """A chunk weighs as much as all its tokens do in the policy loss."""
        result = clipped_value_loss(
            values_S,
            critic.values_S,
            critic.returns_S,
            weights_SC.sum(1) * self.policy.chunk_shape[1],
            value_clip=self.algorithm.value_clip,
            huber_delta=self.algorithm.huber_delta,
        )
        totals.add_values(loss=result.loss, clipped=result.clipped_samples, samples=result.num_samples)
        return result.loss

    def _require_finite(
        self, losses: Sequence[Mapping[str, Tensor]], experience: Experience, micros: Sequence[NDArray[np.int64]]
    ) -> None:
        """Stop before any weight changes when a micro-batch's loss is NaN or infinite; what gave it is saved.

        Raises:
            DivergedError: names the first such loss, the samples and the file.
        """
        # One copy from the device for all of them.
        values = iter(torch.stack([loss.float() for of_micro in losses for loss in of_micro.values()]).cpu())
        for of_micro, micro in zip(losses, micros, strict=True):
            if what := _not_finite({name: next(values) for name in of_micro}, "loss"):
                saved = self._save_bad(experience, micro, "micro-batch")
                raise DivergedError(f"{what} for samples {micro[:8].tolist()}... of rank {self.rank}{saved}")

    def _require_finite_gradients(
        self, norms: Mapping[str, Tensor], experience: Experience, samples: NDArray[np.int64]
    ) -> None:
        """The same for gradients, which are those of a whole minibatch. Collective: every rank has the same norms, and
        none ends before the first one has saved.

        Raises:
            DivergedError: names the gradient, the samples and the file.
        """
        if what := _not_finite(norms, "gradient norm"):
            saved = self._save_bad(experience, samples, "minibatch") if self.rank == 0 else ""
            if self.world_size > 1:
                dist.barrier()
            raise DivergedError(f"{what} for samples {samples[:8].tolist()}... of all ranks{saved}")

    def _save_bad(self, experience: Experience, samples: NDArray[np.int64], what: str) -> str:
        """Save what cannot be learnt from; returns where, for a message."""
        if self.folder is None:
            return ""
        path = self.folder / BAD_BATCH_FILE
        save_samples(path, experience, samples)
        return f"; the {what} is in {path} (numpy.load). No weight was changed by it; try a smaller actor.optim.lr"


def _require_gradient(metrics: Mapping[str, float], experience: Experience) -> None:
    """Stop where an epoch with something to learn moved nothing: not one gradient differed from zero.

    Raises:
        DivergedError: says what there was to learn from.
    """
    kept = experience.kept_S
    signal_S = (experience.advantages_S[kept] != 0) & (experience.weights_SC[kept] > 0).any(1)
    if metrics["train/grad_norm"] == 0 and signal_S.any():
        steps, count = int(metrics["train/num_steps"]), int(signal_S.sum())
        raise DivergedError(
            f"all {steps} gradients of this epoch are zero, although {count} of {len(kept)} samples have an advantage: "
            "what is trained does not act on the policy's answers, or every ratio is clipped. Look at "
            "actor.model.lora_rank and lora_path, actor.fsdp.param_dtype, and algorithm.clip_ratio_low, "
            "clip_ratio_high and clip_ratio_dual"
        )


def _not_finite(values: Mapping[str, Tensor], noun: str) -> str:
    """Which values are NaN or infinite, in words; empty when all are finite."""
    bad = {name: value.item() for name, value in values.items() if not torch.isfinite(value)}
    return " and ".join(f"{name} {noun} is {value}" for name, value in bad.items())


class _Totals:
    """Sums over an epoch, reduced over ranks in one collective at its end."""

    NAMES = (
        "loss", "clipped", "kl", "entropy", "tokens", "gap", "gap_tokens", "value_loss", "clipped_values", "samples",
    )  # fmt: skip

    def __init__(self, device: torch.device) -> None:
        self._sums = torch.zeros(len(self.NAMES), device=device, dtype=torch.float64)
        self._norm = torch.zeros((), device=device)
        self._steps = 0
        self._terms: dict[str, Tensor] = {}

    def add_tokens(
        self, *, loss: Tensor, clipped: Tensor, kl: Tensor, gap: Tensor, entropy: Tensor, tokens: Tensor
    ) -> None:
        self._add(0, loss, clipped, kl, entropy, tokens)
        if self._steps == 0:  # no weight has changed since the rollouts
            self._add(5, gap, tokens)

    def add_values(self, *, loss: Tensor, clipped: Tensor, samples: Tensor) -> None:
        self._add(7, loss, clipped, samples)

    def _add(self, start: int, *values: Tensor) -> None:
        self._sums[start : start + len(values)] += torch.stack([value.detach().double() for value in values])

    def add_mean(self, name: str, value: Tensor, count: int) -> None:
        self._terms[name] = self._terms.get(name, torch.zeros_like(value)) + value / count

    def add_step(self, norm: Tensor) -> None:
        self._norm = self._norm + norm.to(self._norm.device)
        self._steps += 1

    def reduce(self, *, passes: int) -> dict[str, float]:
        """passes: over the samples, of which the losses are means."""
        sums = torch.cat([self._sums, *(term.double().reshape(1) for term in self._terms.values())])
        _, world_size = rank_and_size()
        if world_size > 1:
            dist.all_reduce(sums)
        loss, clipped, kl, entropy, tokens, gap, gap_tokens, value_loss, clipped_values, samples, *terms = sums.tolist()
        metrics = {"train/loss/policy": loss / passes, "train/num_steps": float(self._steps)}
        if tokens:
            metrics |= {
                "train/clip_fraction": clipped / tokens,
                "train/approx_kl": kl / tokens,
                "train/entropy": entropy / tokens,
                "train/logprob_gap": gap / gap_tokens,
            }
        if samples:
            metrics |= {"train/loss/value": value_loss / passes, "train/value_clip_fraction": clipped_values / samples}
        if self._steps:
            metrics["train/grad_norm"] = float(self._norm) / self._steps
            metrics |= {n: term / (self._steps * world_size) for n, term in zip(self._terms, terms, strict=True)}
        return metrics
