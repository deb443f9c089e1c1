"""The training loop: deterministic given the seed, the demonstrations and the number of steps.

Throughput decides how good a policy a few minutes give, so a step never waits for the device: frames are indexed on
the GPU or read ahead, losses and gradient norms are summed there and read every ``log_every`` steps, forward and loss
are one compiled function. What is not finite is therefore found at the next log line, validation or save, but always
before anything is written that could be gone on from. A step's loss is a sum over samples divided by the number of
targets of the whole batch (``sampler``).
"""

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch._dynamo.exc import TorchDynamoException
from tqdm import tqdm

from openvla_oft.data.augment import ImageChange
from openvla_oft.data.batches import Batch, DeviceData
from openvla_oft.data.dataset import Split
from openvla_oft.model.learner import Learner, accumulation
from openvla_oft.options import TrainConfig
from openvla_oft.torch_utils.distributed import Distributed
from openvla_oft.torch_utils.tensors import local, whole
from openvla_oft.train import resume
from openvla_oft.train.log import Records
from openvla_oft.train.objectives import Objective
from openvla_oft.train.optimisation import WeightAverage, learning_rate, parameter_groups
from openvla_oft.train.sampler import Sample, Sampler
from openvla_oft.train.validation import evaluate, prediction_of

logger = logging.getLogger(__name__)

_ADVICE = "lower --lr, or check the demonstrations"

LossFunction = Callable[[Batch, ImageChange], Tensor]
"""A micro-batch and what happens to its images to the summed loss of its counted targets."""


@dataclass(frozen=True)
class TrainResult:
    """What a training did; the model holds the averaged weights afterwards."""

    num_steps: int
    seconds: float
    first_step_seconds: float
    train_loss: float
    validation: dict[str, float]
    compiled: bool
    resumed_from: int
    """Step that this process began at."""


class TrainingDivergedError(ValueError):
    """The loss, a gradient or a weight is no longer a finite number."""


def train(trainer: "Trainer") -> TrainResult:
    """Train in place, from the newest state in its folder where there is one, and leave the averaged weights.

    Writes the log and states to resume from into that folder. Collective.
    """
    config, learner = trainer.config, trainer.learner
    learner.train()
    start = time.perf_counter()
    loss_of, compiled = _build_loss(trainer)
    trainer.optimizer.zero_grad(set_to_none=True)
    first_step_seconds = time.perf_counter() - start
    begin = trainer.resume()
    clock = _Clock(config, begin=start - begin.seconds, spent=first_step_seconds, distributed=trainer.distributed)
    step, validation = begin.step, dict[str, float]()
    records = Records(trainer.folder, start=step, seconds=begin.seconds, active=trainer.distributed.is_first)
    with records, tqdm(total=100, desc="training", unit="%", disable=not trainer.distributed.is_first) as bar:
        while (progress := clock.progress(step)) < 1:
            rate = learning_rate(
                step=step, progress=progress, base=config.learning_rate, num_warmup_steps=config.num_warmup_steps
            )
            grad_norm = trainer.update(loss_of, step, rate)
            step += 1
            if step % config.log_every == 0:
                loss, norm = trainer.mean_loss(step), float(whole(grad_norm))
                records.write(step, {"train_loss": loss, "learning_rate": rate, "grad_norm": norm})
                bar.update(round(100 * clock.progress(step)) - bar.n)
                bar.set_postfix(step=step, loss=f"{loss:.3f}", **_short(validation))
            if step % config.validate_every == 0 and clock.progress(step) < 1:
                validation = trainer.validate(step)
                records.write(step, {}, validation=validation)
            if config.save_every and step % config.save_every == 0 and clock.progress(step) < 1:
                trainer.save(step, begin.seconds + time.perf_counter() - start)
        train_loss = trainer.mean_loss(step)
        seconds = begin.seconds + time.perf_counter() - start
        trainer.check_weights(step)
        validation = trainer.validate(step)
        logged = step % config.log_every == 0
        records.write(step, {} if logged else {"train_loss": train_loss}, validation=validation)
        bar.update(100 - bar.n)
    trainer.average.swap()
    learner.train(mode=False)
    return TrainResult(
        num_steps=step,
        seconds=seconds,
        first_step_seconds=first_step_seconds,
        train_loss=train_loss,
        validation=validation,
        compiled=compiled,
        resumed_from=begin.step,
    )


class Trainer:
    """What a training changes, and the work of one step. All methods are collective."""

    def __init__(
        self,
        config: TrainConfig,
        *,
        learner: Learner,
        data: DeviceData,
        split: Split,
        objective: Objective,
        folder: Path,
        distributed: Distributed,
    ) -> None:
        self.config = config
        self.learner = learner
        self.data = data
        self.objective = objective
        self.folder = folder
        self.distributed = distributed
        self.sampler = Sampler(config, data, split, objective, distributed)
        self.average = WeightAverage(learner, decay=config.ema_decay)
        self.optimizer = torch.optim.AdamW(
            parameter_groups(learner, weight_decay=config.weight_decay),
            lr=config.learning_rate,
            betas=(0.9, 0.95),
            fused=data.device.type == "cuda",
        )
        self._parameters = [parameter for parameter in learner.parameters() if parameter.requires_grad]
        self._validation_frames = _validation_frames(config, split)
        # This rank's part of the loss, summed over the steps since the last log line, whose mean was `_last_loss`.
        self._loss_sum = torch.zeros((), device=data.device)
        # Likewise of gradient norms; of shards these are no norm of anything, but finite only where all of them are.
        self._norm_sum = torch.zeros((), device=data.device)
        self._num_summed = 0
        self._last_loss = math.nan

    def update(self, loss_of: LossFunction, step: int, rate: float) -> Tensor:
        """One optimizer step; returns the gradient norm, possibly sharded."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        parts, num_targets = self.sampler.step(step)
        with accumulation(self.learner) as begin:
            for number, (batch, change) in enumerate(parts, start=1):
                begin(number == len(parts))
                loss = loss_of(batch, change) / num_targets
                # FSDP2 averages gradients over ranks, but the loss is already a mean over the batches of all of them.
                (loss * self.distributed.world_size).backward()
                self._loss_sum += loss.detach()
        grad_norm = torch.nn.utils.clip_grad_norm_(self._parameters, self.config.max_grad_norm)
        self._norm_sum += local(grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.average.update(step)
        self._num_summed += 1
        return grad_norm

    def mean_loss(self, step: int) -> float:
        """Over the steps since the last call; that call's where there were none."""
        if self._num_summed:
            self._last_loss = self._checked_sum(step) / self._num_summed
            self._loss_sum.zero_()
            self._norm_sum.zero_()
            self._num_summed = 0
        return self._last_loss

    def check_weights(self, step: int) -> None:
        """Raise unless every trained weight, its average and the optimizer's moments are finite."""
        states = self.optimizer.state.values()
        moments = [state[kind] for state in states for kind in resume.MOMENTS]
        tensors = [local(tensor.detach()) for tensor in [*self._parameters, *self.average.averages, *moments]]
        largest = torch.stack(torch._foreach_norm([tensor for tensor in tensors if tensor.numel()], math.inf))
        count = int(self.distributed.total((~largest.isfinite()).sum()))
        if count:
            raise TrainingDivergedError(f"{count} tensors of weights are not finite after step {step}; {_ADVICE}")

    def validate(self, step: int) -> dict[str, float]:
        """Numbers of the averaged weights, none where nothing is held out; raises unless they are finite."""
        held_out = len(self._validation_frames) > 0
        frames = self._validation_frames if held_out else self.sampler.order.batch(0)
        self.learner.train(mode=False)
        with self.average.applied():
            metrics = evaluate(
                self.learner,
                self.data,
                frames,
                objective=self.objective,
                bf16=self.config.bf16,
                batch_size=self.sampler.micro_batch,
                distributed=self.distributed,
            )
        self.learner.train()
        broken = sorted(name for name, value in metrics.items() if not math.isfinite(value))
        if broken:
            raise TrainingDivergedError(f"the weights after step {step} give {broken} that are not finite; {_ADVICE}")
        return metrics if held_out else {}

    def save(self, step: int, seconds: float) -> None:
        """Write a state to resume from, unless nothing could come of it."""
        loss_sum = self._checked_sum(step)
        self.check_weights(step)
        progress = resume.Progress(
            step=step,
            seconds=seconds,
            loss_sum=loss_sum,
            num_summed=self._num_summed,
            last_loss=self._last_loss,
        )
        resume.save(
            self.folder,
            progress,
            learner=self.learner,
            average=self.average,
            optimizer=self.optimizer,
            distributed=self.distributed,
        )

    def resume(self) -> resume.Progress:
        """Take back the newest state; without one, the beginning."""
        state = resume.latest_state(self.folder)
        if state is None:
            return resume.Progress()
        progress = resume.load(state, learner=self.learner, average=self.average, optimizer=self.optimizer)
        self._loss_sum.fill_(progress.loss_sum if self.distributed.is_first else 0.0)
        self._num_summed, self._last_loss = progress.num_summed, progress.last_loss
        logger.info("going on from step %d", progress.step)
        return progress

    def _checked_sum(self, step: int) -> float:
        """Every rank's summed loss, read from the device together with the gradient norms; raises unless both are
        finite."""
        loss, norm = self.distributed.total(torch.stack([self._loss_sum, self._norm_sum])).tolist()
        for name, value in (("loss", loss), ("gradient", norm)):
            if not math.isfinite(value):
                raise TrainingDivergedError(f"the {name} is {value} at step {step} or just before; {_ADVICE}")
        return float(loss)


def _build_loss(trainer: Trainer) -> tuple[LossFunction, bool]:
    """The loss as one function, compiled if asked for and possible; runs it once forward and backward to find out."""
    config, learner, data, objective = trainer.config, trainer.learner, trainer.data, trainer.objective
    sharded = trainer.distributed.world_size > 1
    sample = trainer.sampler.step(0)[0][0]  # a micro-batch to compile and check with

    def core(batch: Batch, change: ImageChange) -> Tensor:
        pixel_values = data.to_pixel_values(change.apply(batch.images_BNHWC))
        losses_BT = objective.losses(prediction_of(learner, batch, pixel_values), batch)
        return (losses_BT * objective.counted(batch.inside_BT).to(losses_BT.dtype)).sum()

    def loss_with(function: LossFunction) -> LossFunction:
        def loss_of(batch: Batch, change: ImageChange) -> Tensor:
            with torch.autocast(data.device.type, dtype=torch.bfloat16, enabled=config.bf16):
                return function(batch, change)

        return loss_of

    # Sharded blocks have been compiled one by one.
    if config.use_compile and not sharded:
        loss_of = loss_with(torch.compile(core, dynamic=False))
        try:
            _check_first(loss_of, sample)
            return loss_of, True
        except TorchDynamoException as error:
            logger.warning("torch.compile failed (%s); training without it", str(error).strip().splitlines()[0])
    loss_of = loss_with(core)
    _check_first(loss_of, sample)
    return loss_of, config.use_compile and sharded


def _check_first(loss_of: LossFunction, sample: Sample) -> None:
    """One forward and backward pass, for which functions are compiled."""
    loss = loss_of(*sample)
    loss.backward()
    if not bool(loss.isfinite()):
        raise TrainingDivergedError(f"the loss is {loss.item()} before the first step; check the checkpoint's weights")


class _Clock:
    """Progress from 0 to 1, by steps or by wall-clock time after the first (compiling) step, whichever is further."""

    def __init__(self, config: TrainConfig, *, begin: float, spent: float, distributed: Distributed) -> None:
        self.num_steps = config.num_steps
        self.distributed = distributed
        self.begin = begin + spent
        self.limit = None if config.minutes is None else 60 * config.minutes - spent
        if self.limit is not None and self.limit <= 0:
            raise ValueError(
                f"--minutes {config.minutes:g} are over after the first step, which took {spent:.0f} s (compilation "
                f"included); give more minutes or use --no-compile"
            )

    def progress(self, step: int) -> float:
        """How far a training is before ``step``; at 1 it is over. Collective."""
        by_steps = 0.0 if self.num_steps is None else step / self.num_steps
        if self.limit is None:
            return by_steps
        return max(by_steps, self.distributed.agreed((time.perf_counter() - self.begin) / self.limit))


def _validation_frames(config: TrainConfig, split: Split) -> Tensor:
    """A fixed sample of the held-out frames, the same for every training of these demonstrations and seed."""
    count = min(config.num_validation_frames, len(split.validation_frames))
    chosen = np.random.default_rng(config.seed).choice(split.validation_frames, size=count, replace=False)
    return torch.from_numpy(np.sort(chosen))


def _short(validation: dict[str, float]) -> dict[str, str]:
    name = next(iter(validation), "")
    return {"val": f"{validation[name]:.3f}"} if validation else {}
