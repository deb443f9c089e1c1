"""The training loop: deterministic given the seed, the demonstrations and the number of steps.

Throughput decides how good a policy a few minutes give, so a step never waits for the device: frames are indexed on
the GPU or read ahead, losses are summed there and read every ``log_every`` steps, forward and loss are one compiled
function. A step's samples and random numbers depend on the seed and its number alone (``order``), and its loss is a sum
over samples divided by the number of targets of the whole batch: accumulation, several processes and an interruption
change nothing but rounding.

Shapes: B samples of a step over all processes, T action tokens (56, or 7 of an autoregressive model).
"""

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch._dynamo.exc import TorchDynamoException
from tqdm import tqdm

from openvla_oft import augment, resume
from openvla_oft.augment import AugmentConfig, AugmentDraw
from openvla_oft.batches import Batch, DeviceData, rows
from openvla_oft.dataset import Split
from openvla_oft.learner import Learner, whole
from openvla_oft.objectives import Objective
from openvla_oft.optimisation import WeightAverage, learning_rate, parameter_groups
from openvla_oft.order import DataOrder, derived_seed
from openvla_oft.ranks import Ranks
from openvla_oft.records import Records
from openvla_oft.validation import evaluate, prediction_function

logger = logging.getLogger(__name__)

LossFunction = Callable[[Batch, AugmentDraw], Tensor]
"""A micro-batch and its random numbers to the summed loss of its counted targets."""


@dataclass(frozen=True)
class TrainConfig:
    """Settings of one training; it ends at ``num_steps`` or after ``minutes``, whichever comes first."""

    num_steps: int | None = None
    minutes: float | None = None
    """Wall-clock limit of the loop, compilation included; the cosine then follows the time."""
    batch_size: int = 512
    """Samples of one optimizer step, over all processes."""
    micro_batch_size: int | None = None
    """Samples of one forward and backward pass of one process; None: its whole share."""
    learning_rate: float = 5e-4
    num_warmup_steps: int = 200
    weight_decay: float = 0.05
    max_grad_norm: float = 1.0
    label_sigma: float = 0.0
    """Standard deviation of smoothed labels in bins; 0 = hard labels."""
    ema_decay: float = 0.999
    """0 keeps the last weights."""
    seed: int = 0
    bf16: bool = False
    use_compile: bool = False
    log_every: int = 50
    validate_every: int = 1000
    save_every: int = 1000
    """Steps between states to resume from; 0: none."""
    num_validation_frames: int = 8192
    augment: AugmentConfig = field(default_factory=AugmentConfig)

    def __post_init__(self) -> None:
        if self.num_steps is None and self.minutes is None:
            raise ValueError("give num_steps (--steps), minutes (--minutes), or both")
        positive = {
            "num_steps": self.num_steps,
            "minutes": self.minutes,
            "batch_size": self.batch_size,
            "micro_batch_size": self.micro_batch_size,
            "learning_rate": self.learning_rate,
            "max_grad_norm": self.max_grad_norm,
            "log_every": self.log_every,
            "validate_every": self.validate_every,
            "num_validation_frames": self.num_validation_frames,
        }
        for name, value in positive.items():
            if value is not None and not value > 0:
                raise ValueError(f"{name}={value} must be positive")
        if min(self.num_warmup_steps, self.weight_decay, self.save_every) < 0:
            raise ValueError("num_warmup_steps, weight_decay and save_every must not be negative")

    def micro_batch(self, world_size: int) -> int:
        """Samples of one pass of one process."""
        micro = self.micro_batch_size or -(-self.batch_size // world_size)
        if self.batch_size % (micro * world_size):
            raise ValueError(
                f"--batch-size {self.batch_size} must be a multiple of --micro-batch-size x processes = "
                f"{micro} x {world_size}"
            )
        return micro


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
    """The loss is no longer a finite number."""


def train(
    config: TrainConfig,
    *,
    learner: Learner,
    data: DeviceData,
    split: Split,
    objective: Objective,
    folder: Path,
    ranks: Ranks | None = None,
) -> TrainResult:
    """Train in place, from the newest state in ``folder`` where there is one, and leave the averaged weights.

    Writes the log and states to resume from into ``folder``. Collective.
    """
    ranks = ranks or Ranks()
    samples = _Samples(config, data, split, objective, ranks)
    validation_frames = _validation_frames(config, split)
    average = WeightAverage(learner, decay=config.ema_decay)
    groups = parameter_groups(learner, weight_decay=config.weight_decay)
    optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.95), fused=data.device.type == "cuda")
    parameters = [parameter for parameter in learner.parameters() if parameter.requires_grad]

    def validate() -> dict[str, float]:
        if len(validation_frames) == 0:
            return {}
        learner.train(mode=False)
        with average.applied():
            metrics = evaluate(
                prediction_function(learner, data, bf16=config.bf16),
                data,
                validation_frames,
                objective=objective,
                batch_size=samples.micro_batch,
                ranks=ranks,
            )
        learner.train()
        return metrics

    learner.train()
    start = time.perf_counter()
    loss_of, compiled = _build_loss(
        config,
        learner=learner,
        data=data,
        objective=objective,
        sample=samples.first(),
        sharded=ranks.world_size > 1,
    )
    optimizer.zero_grad(set_to_none=True)
    first_step_seconds = time.perf_counter() - start
    state = resume.latest_state(folder)
    begin = resume.Progress()
    if state is not None:
        begin = resume.load(state, learner=learner, average=average, optimizer=optimizer, ranks=ranks)
        logger.info("going on from step %d", begin.step)
    clock = _Clock(config, begin=start - begin.seconds, spent=first_step_seconds, ranks=ranks)
    loss_sum = torch.tensor(begin.loss_sum if ranks.is_first else 0.0, device=data.device)
    step, summed, train_loss, validation = begin.step, begin.num_summed, math.nan, dict[str, float]()
    records = Records(folder, start=step, seconds=begin.seconds, active=ranks.is_first)
    with records, tqdm(total=100, desc="training", unit="%", disable=not ranks.is_first) as bar:
        while (progress := clock.progress(step)) < 1:
            rate = learning_rate(
                step=step, progress=progress, base=config.learning_rate, num_warmup_steps=config.num_warmup_steps
            )
            for group in optimizer.param_groups:
                group["lr"] = rate
            loss_sum += _accumulate(loss_of, samples, step)
            grad_norm = torch.nn.utils.clip_grad_norm_(parameters, config.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            average.update(step)
            step, summed = step + 1, summed + 1
            if step % config.log_every == 0:
                train_loss = _mean_loss(ranks.total(loss_sum), summed, step)
                norm = float(whole(grad_norm))
                records.write(step, {"train_loss": train_loss, "learning_rate": rate, "grad_norm": norm})
                loss_sum = torch.zeros_like(loss_sum)
                summed = 0
                bar.update(round(100 * clock.progress(step)) - bar.n)
                bar.set_postfix(step=step, loss=f"{train_loss:.3f}", **_short(validation))
            if step % config.validate_every == 0 and clock.progress(step) < 1:
                validation = validate()
                records.write(step, {}, validation=validation)
            if config.save_every and step % config.save_every == 0 and clock.progress(step) < 1:
                sum_so_far = float(ranks.total(loss_sum.clone()))
                stand = resume.Progress(step, begin.seconds + time.perf_counter() - start, sum_so_far, summed)
                resume.save(folder, stand, learner=learner, average=average, optimizer=optimizer, ranks=ranks)
        if summed:
            train_loss = _mean_loss(ranks.total(loss_sum), summed, step)
        seconds = begin.seconds + time.perf_counter() - start
        validation = validate()
        records.write(step, {"train_loss": train_loss}, validation=validation)
        bar.update(100 - bar.n)
    average.swap()
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


class _Samples:
    """This rank's micro-batches of every step."""

    def __init__(self, config: TrainConfig, data: DeviceData, split: Split, objective: Objective, ranks: Ranks) -> None:
        self.config = config
        self.data = data
        self.objective = objective
        self.ranks = ranks
        self.micro_batch = config.micro_batch(ranks.world_size)
        self.order = DataOrder(split.train_frames, batch_size=config.batch_size, seed=config.seed)
        self._generator = torch.Generator(data.device)

    def step(self, step: int) -> tuple[list[tuple[Batch, AugmentDraw]], Tensor]:
        """Micro-batches with their random numbers, and the number of counted targets of the whole batch."""
        share = self.ranks.share(self.config.batch_size)
        frames_B = self.order.batch(step)
        numbers = rows(self._draw(step), share)
        batch = self.data.batch(frames_B[share], numbers.shift_BN2)
        self.data.frames.prefetch(self.order.batch(step + 1)[share])
        parts = [slice(i, i + self.micro_batch) for i in range(0, len(batch), self.micro_batch)]
        inside_BT = self.data.inside_FT[frames_B.to(self.data.device)]
        num_targets = self.objective.counted(inside_BT).sum().clamp_min(1)
        # For a fixed seed the same whatever ran before, as dropout draws from torch's own generator.
        torch.manual_seed(derived_seed(self.config.seed, f"dropout/{self.ranks.rank}", step))
        return [(batch.part(part), rows(numbers, part)) for part in parts], num_targets

    def first(self) -> tuple[Batch, AugmentDraw]:
        """A micro-batch to compile and check with."""
        return self.step(0)[0][0]

    def _draw(self, step: int) -> AugmentDraw:
        self._generator.manual_seed(derived_seed(self.config.seed, "augment", step))
        frames = self.data.frames
        return augment.draw(
            self.config.augment,
            num_samples=self.config.batch_size,
            num_cameras=frames.num_cameras,
            image_size=frames.image_size,
            generator=self._generator,
        )


def _accumulate(loss_of: LossFunction, samples: _Samples, step: int) -> Tensor:
    """Add up the gradients of a step; returns this rank's part of the mean loss."""
    parts, num_targets = samples.step(step)
    total = torch.zeros((), device=samples.data.device)
    for batch, numbers in parts:
        loss = loss_of(batch, numbers) / num_targets
        # FSDP2 averages gradients over the ranks, but the loss is already a mean over the batches of all of them.
        (loss * samples.ranks.world_size).backward()
        total += loss.detach()
    return total


def _build_loss(
    config: TrainConfig,
    *,
    learner: Learner,
    data: DeviceData,
    objective: Objective,
    sample: tuple[Batch, AugmentDraw],
    sharded: bool,
) -> tuple[LossFunction, bool]:
    """The loss as one function, compiled if asked for and possible; runs it once forward and backward to find out."""

    def core(batch: Batch, numbers: AugmentDraw) -> Tensor:
        pixel_values = data.to_pixel_values(augment.jitter(batch.images_BNHWC, numbers))
        prediction = learner(
            batch.input_ids_BL, batch.attention_mask_BL, pixel_values, batch.targets_BT, batch.proprio_BP
        )
        losses_BT = objective.losses(prediction, batch)
        return (losses_BT * objective.counted(batch.inside_BT).to(losses_BT.dtype)).sum()

    def loss_with(function: LossFunction) -> LossFunction:
        def loss_of(batch: Batch, numbers: AugmentDraw) -> Tensor:
            with torch.autocast(data.device.type, dtype=torch.bfloat16, enabled=config.bf16):
                return function(batch, numbers)

        return loss_of

    # Sharded blocks have been compiled one by one.
    if config.use_compile and not sharded:
        loss_of = loss_with(torch.compile(core, dynamic=False))
        try:
            _mean_loss(_forward_backward(loss_of, sample), 1, 0)
            return loss_of, True
        except TorchDynamoException as error:
            logger.warning("torch.compile failed (%s); training without it", str(error).strip().splitlines()[0])
    loss_of = loss_with(core)
    _mean_loss(_forward_backward(loss_of, sample), 1, 0)
    return loss_of, config.use_compile and sharded


def _forward_backward(loss_of: LossFunction, sample: tuple[Batch, AugmentDraw]) -> Tensor:
    loss = loss_of(*sample)
    loss.backward()
    return loss.detach()


class _Clock:
    """Progress from 0 to 1, by steps or by wall-clock time after the first (compiling) step, whichever is further."""

    def __init__(self, config: TrainConfig, *, begin: float, spent: float, ranks: Ranks) -> None:
        self.num_steps = config.num_steps
        self.ranks = ranks
        self.begin = begin + spent
        self.limit = None if config.minutes is None else 60 * config.minutes - spent
        if self.limit is not None and self.limit <= 0:
            raise ValueError(
                f"--minutes {config.minutes:g} are over after the first step, which took {spent:.0f} s (compilation "
                f"included); give more minutes or use --no-compile"
            )

    def progress(self, step: int) -> float:
        by_steps = 0.0 if self.num_steps is None else step / self.num_steps
        if self.limit is None:
            return by_steps
        return max(by_steps, self.ranks.agreed((time.perf_counter() - self.begin) / self.limit))


def _validation_frames(config: TrainConfig, split: Split) -> Tensor:
    """A fixed sample of the held-out frames, the same for every training of these demonstrations and seed."""
    count = min(config.num_validation_frames, len(split.validation_frames))
    chosen = np.random.default_rng(config.seed).choice(split.validation_frames, size=count, replace=False)
    return torch.from_numpy(np.sort(chosen))


def _mean_loss(loss_sum: Tensor, count: int, step: int) -> float:
    """Read the summed loss from the device (the only synchronisation) and check it."""
    mean = loss_sum.item() / count
    if not math.isfinite(mean):
        raise TrainingDivergedError(f"the loss is {mean} at step {step}; lower --lr, or check the demonstrations")
    return mean


def _short(validation: dict[str, float]) -> dict[str, str]:
    name = next(iter(validation), "")
    return {"val": f"{validation[name]:.3f}"} if validation else {}
