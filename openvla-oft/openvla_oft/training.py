"""The training loop: one model on one device, data already there.

Throughput decides how good a policy a few minutes give, so a step never waits for the device: frames are indexed on
the GPU, losses are summed there and read every ``log_every`` steps, forward and loss are one compiled function.

Shapes: B samples, T action tokens (56, or 7 of an autoregressive model), V action columns.
"""

import json
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

from openvla_oft import augment, losses
from openvla_oft.augment import AugmentConfig, AugmentDraw
from openvla_oft.batches import DeviceData, shuffled_batches
from openvla_oft.dataset import Split
from openvla_oft.optimisation import WeightAverage, learning_rate, parameter_groups
from openvla_oft.validation import evaluate
from transformers_openvla_oft.action_tokens import ActionTokenMap
from transformers_openvla_oft.modeling import OpenVLAForActionPrediction

logger = logging.getLogger(__name__)

LossFunction = Callable[[Tensor, AugmentDraw], Tensor]


@dataclass(frozen=True)
class TrainConfig:
    """Settings of one training; it ends at ``num_steps`` or after ``minutes``, whichever comes first."""

    num_steps: int | None = None
    minutes: float | None = None
    """Wall-clock limit of the loop, compilation included; the cosine then follows the time."""
    batch_size: int = 512
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
    num_validation_frames: int = 8192
    augment: AugmentConfig = field(default_factory=AugmentConfig)

    def __post_init__(self) -> None:
        if self.num_steps is None and self.minutes is None:
            raise ValueError("give num_steps (--steps), minutes (--minutes), or both")
        positive = {
            "num_steps": self.num_steps,
            "minutes": self.minutes,
            "batch_size": self.batch_size,
            "learning_rate": self.learning_rate,
            "max_grad_norm": self.max_grad_norm,
            "log_every": self.log_every,
            "validate_every": self.validate_every,
            "num_validation_frames": self.num_validation_frames,
        }
        for name, value in positive.items():
            if value is not None and not value > 0:
                raise ValueError(f"{name}={value} must be positive")
        if self.num_warmup_steps < 0 or self.weight_decay < 0:
            raise ValueError("num_warmup_steps and weight_decay must not be negative")


@dataclass(frozen=True)
class TrainResult:
    """What a training did; the model holds the averaged weights afterwards."""

    num_steps: int
    seconds: float
    first_step_seconds: float
    train_loss: float
    validation: dict[str, float]
    compiled: bool


class TrainingDivergedError(ValueError):
    """The loss is no longer a finite number."""


def train(
    config: TrainConfig,
    *,
    model: OpenVLAForActionPrediction,
    data: DeviceData,
    split: Split,
    token_map: ActionTokenMap,
    log_path: Path,
) -> TrainResult:
    """Train in place and leave the averaged weights in the model; append JSON lines to ``log_path``."""
    device = data.device
    generator = torch.Generator(device).manual_seed(config.seed)
    train_frames = torch.from_numpy(split.train_frames).to(device)
    validation_frames = _validation_frames(config, split, device)
    batches = shuffled_batches(train_frames, batch_size=config.batch_size, generator=generator)
    average = WeightAverage(model, decay=config.ema_decay)
    groups = parameter_groups(model, weight_decay=config.weight_decay)
    optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.95), fused=device.type == "cuda")
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def next_inputs() -> tuple[Tensor, AugmentDraw]:
        num_cameras, image_size = data.images_FNHWC.shape[1:3]
        size = {"num_samples": config.batch_size, "num_cameras": num_cameras, "image_size": image_size}
        return next(batches), augment.draw(config.augment, generator=generator, **size)

    def validate() -> dict[str, float]:
        if validation_frames.numel() == 0:
            return {}
        model.train(mode=False)
        with average.applied():
            logits_of = logits_function(model, data, bf16=config.bf16)
            metrics = evaluate(logits_of, data, validation_frames, token_map=token_map, batch_size=config.batch_size)
        model.train()
        return metrics

    model.train()
    start = time.perf_counter()
    loss_of, compiled = _build_loss(config, model=model, data=data, inputs=next_inputs())
    optimizer.zero_grad(set_to_none=True)
    first_step_seconds = time.perf_counter() - start
    clock = _Clock(config, start=start, spent=first_step_seconds)
    loss_sum = torch.zeros((), device=device)
    step, summed, train_loss, validation = 0, 0, math.nan, dict[str, float]()
    with tqdm(total=100, desc="training", unit="%") as bar, log_path.open("a") as log:

        def record(line: dict[str, object]) -> None:
            log.write(json.dumps({"step": step, "seconds": round(time.perf_counter() - start, 2), **line}) + "\n")
            log.flush()

        while (progress := clock.progress(step)) < 1:
            rate = learning_rate(
                step=step, progress=progress, base=config.learning_rate, num_warmup_steps=config.num_warmup_steps
            )
            for group in optimizer.param_groups:
                group["lr"] = rate
            loss = loss_of(*next_inputs())
            loss.backward()
            grad_norm = torch.nn.utils.clip_grad_norm_(parameters, config.max_grad_norm)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            average.update(step)
            loss_sum += loss.detach()
            step, summed = step + 1, summed + 1
            if step % config.log_every == 0:
                train_loss = _mean_loss(loss_sum, summed, step)
                record({"train_loss": train_loss, "learning_rate": rate, "grad_norm": float(grad_norm)})
                loss_sum.zero_()
                summed = 0
                bar.update(round(100 * clock.progress(step)) - bar.n)
                bar.set_postfix(step=step, loss=f"{train_loss:.3f}", **_short(validation))
            if step % config.validate_every == 0 and clock.progress(step) < 1:
                validation = validate()
                record({"validation": validation})
        if summed:
            train_loss = _mean_loss(loss_sum, summed, step)
        seconds = time.perf_counter() - start
        validation = validate()
        record({"train_loss": train_loss, "validation": validation})
        bar.update(100 - bar.n)
    average.swap()
    model.train(mode=False)
    return TrainResult(
        num_steps=step,
        seconds=seconds,
        first_step_seconds=first_step_seconds,
        train_loss=train_loss,
        validation=validation,
        compiled=compiled,
    )


def logits_function(model: OpenVLAForActionPrediction, data: DeviceData, *, bf16: bool) -> Callable[[Tensor], Tensor]:
    """Frame indices to logits, without augmentation; of an autoregressive model those after the expert's tokens."""

    def logits_of(frames_B: Tensor) -> Tensor:
        tasks_B = data.tasks_F[frames_B]
        with torch.autocast(data.device.type, dtype=torch.bfloat16, enabled=bf16):
            output = model(
                input_ids_BL=data.input_ids_KL[tasks_B],
                attention_mask_BL=data.attention_mask_KL[tasks_B],
                pixel_values=data.to_pixel_values(augment.plain(data.images_FNHWC[frames_B])),
                bins_BT=data.targets_FT[frames_B].long(),
            )
        logits_BTV: Tensor = output.logits_BTV
        return logits_BTV

    return logits_of


def _build_loss(
    config: TrainConfig, *, model: OpenVLAForActionPrediction, data: DeviceData, inputs: tuple[Tensor, AugmentDraw]
) -> tuple[LossFunction, bool]:
    """The loss as one function, compiled if asked for and possible; runs it once forward and backward to find out."""
    table_VV = losses.soft_label_table(model.config.n_action_bins, sigma=config.label_sigma)
    table_VV = None if table_VV is None else table_VV.to(data.device)

    def core(
        images: Tensor, numbers: AugmentDraw, input_ids: Tensor, mask: Tensor, targets_BT: Tensor, inside_BT: Tensor
    ) -> Tensor:
        pixel_values = data.to_pixel_values(augment.jitter(images, numbers))
        output = model(input_ids_BL=input_ids, attention_mask_BL=mask, pixel_values=pixel_values, bins_BT=targets_BT)
        return losses.token_cross_entropy(output.logits_BTV, targets_BT, inside_BT, table_VV=table_VV)

    def loss_with(function: Callable[..., Tensor]) -> LossFunction:
        def loss_of(frames_B: Tensor, numbers: AugmentDraw) -> Tensor:
            images = augment.fetch(data.images_FNHWC, frames_B, numbers.shift_BN2)
            tasks_B = data.tasks_F[frames_B]
            prompt = data.input_ids_KL[tasks_B], data.attention_mask_KL[tasks_B]
            targets_BT = data.targets_FT[frames_B].long()
            with torch.autocast(data.device.type, dtype=torch.bfloat16, enabled=config.bf16):
                return function(images, numbers, *prompt, targets_BT, data.inside_FT[frames_B])

        return loss_of

    if config.use_compile:
        loss_of = loss_with(torch.compile(core, dynamic=False))
        try:
            _mean_loss(_forward_backward(loss_of, inputs), 1, 0)
            return loss_of, True
        except TorchDynamoException as error:
            logger.warning("torch.compile failed (%s); training without it", str(error).strip().splitlines()[0])
    loss_of = loss_with(core)
    _mean_loss(_forward_backward(loss_of, inputs), 1, 0)
    return loss_of, False


def _forward_backward(loss_of: LossFunction, inputs: tuple[Tensor, AugmentDraw]) -> Tensor:
    loss = loss_of(*inputs)
    loss.backward()
    return loss.detach()


class _Clock:
    """Progress from 0 to 1, by steps or by wall-clock time after the first (compiling) step, whichever is further."""

    def __init__(self, config: TrainConfig, *, start: float, spent: float) -> None:
        self.num_steps = config.num_steps
        self.begin = start + spent
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
        return max(by_steps, (time.perf_counter() - self.begin) / self.limit)


def _validation_frames(config: TrainConfig, split: Split, device: torch.device) -> Tensor:
    """A fixed sample of the held-out frames, the same for every training of these demonstrations and seed."""
    count = min(config.num_validation_frames, len(split.validation_frames))
    chosen = np.random.default_rng(config.seed).choice(split.validation_frames, size=count, replace=False)
    return torch.from_numpy(np.sort(chosen)).to(device)


def _mean_loss(loss_sum: Tensor, count: int, step: int) -> float:
    """Read the summed loss from the device (the only synchronisation) and check it."""
    mean = loss_sum.item() / count
    if not math.isfinite(mean):
        raise TrainingDivergedError(f"the loss is {mean} at step {step}; lower --lr, or check the demonstrations")
    return mean


def _short(validation: dict[str, float]) -> dict[str, str]:
    return {"val": f"{validation['cross_entropy']:.3f}"} if validation else {}
