"""The supervised start of the convolutional policy: demonstrations to a checkpoint that reinforcement learning can use.

Reinforcement learning from a sparse reward needs a policy that succeeds now and then; a VLA has one from its
pretraining, a CNN only from demonstrations. Data, targets, augmentation and schedule are those of ``openvla_oft``.

Shapes: F frames of all demonstrations, K tasks, B samples, T action tokens, N images, D instruction features.
"""

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
from torch import Tensor, nn

from libero_runtime.files import whole_folder
from libero_runtime.options import Option
from openvla_oft.data import augment
from openvla_oft.data.augment import AugmentConfig
from openvla_oft.data.batches import shuffled_batches
from openvla_oft.data.dataset import DemonstrationSet, chunk_actions, split_demonstrations
from openvla_oft.data.statistics import action_statistics
from openvla_oft.train.objectives import soft_label_table, token_losses
from openvla_oft.train.optimisation import WeightAverage, learning_rate, parameter_groups
from rlinf.config import ConfigError
from rlinf.models.simple_cnn import CNNSettings, SimpleCNN, embed_instruction, fresh_cnn, save_cnn, to_pixels
from rlinf.reporting.progress import Progress
from transformers_openvla_oft import ActionTokenMap

VALIDATION_BATCH = 1024
SAVE_DTYPE = torch.float16  # halves the file; its error is far below a bin's width


@dataclass(frozen=True)
class PretrainConfig:
    """Settings of one supervised training."""

    num_steps: Annotated[int, Option("optimizer steps", name="steps", above=0)] = 4000
    batch_size: Annotated[int, Option("frames per step", above=0)] = 128
    learning_rate: Annotated[float, Option("peak learning rate", name="lr", above=0)] = 1e-3
    num_warmup_steps: int = 100
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    label_sigma: Annotated[float, Option("standard deviation of smoothed labels in bins; 0: hard labels", least=0)] = (
        1.0
    )
    ema_decay: float = 0.998
    validation_fraction: Annotated[float, Option("share that is held out", least=0, below=1)] = 0.02
    seed: Annotated[int, Option()] = 0
    augment: AugmentConfig = field(default_factory=AugmentConfig)


@dataclass(frozen=True)
class PretrainResult:
    """What a training did; ``validation_*`` are means over held-out frames, NaN where none is held out."""

    num_steps: int
    seconds: float
    train_loss: float
    validation_cross_entropy: float
    validation_accuracy: float


@dataclass(frozen=True)
class _Data:
    """Everything a step indexes, on one device."""

    images_FNHWC: Tensor
    targets_FT: Tensor
    tasks_F: Tensor
    instructions_KD: Tensor


def pretrain(
    demos: DemonstrationSet,
    *,
    suite: str,
    settings: CNNSettings,
    config: PretrainConfig,
    output: Path,
    device: torch.device,
) -> PretrainResult:
    """Train a fresh network on the next eight actions of every frame and write it to folder ``output``.

    The folder appears when it is complete.

    Raises:
        ConfigError: demonstrations and settings do not fit.
        FloatingPointError: the loss is not finite.
    """
    if demos.image_size != settings.image_size or len(demos.cameras) != settings.num_images:
        raise ConfigError(
            f"frames are {len(demos.cameras)} x {demos.image_size} pixels, but the network takes "
            f"{settings.num_images} x {settings.image_size}"
        )
    statistics = action_statistics(demos.actions_FA, num_trajectories=len(demos.demo_lengths_D))
    settings = replace(settings, norm_stats={suite: statistics})
    module = fresh_cnn(settings, seed=config.seed).to(device)
    data = _to_device(demos, settings.action_map(suite), device)
    started = time.monotonic()
    train_loss, validation = _train(module, data, demos, config)
    result = PretrainResult(config.num_steps, time.monotonic() - started, train_loss, *validation)
    with whole_folder(output) as partial:
        save_cnn(partial, settings, {name: value.cpu().to(SAVE_DTYPE) for name, value in module.state_dict().items()})
        record = {
            "config": asdict(config),
            "demonstrations": len(demos.demo_lengths_D),
            "frames": demos.num_frames,
            "parameters": sum(parameter.numel() for parameter in module.parameters()),
            "result": asdict(result),
        }
        (partial / "training.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return result


def _to_device(demos: DemonstrationSet, actions: ActionTokenMap, device: torch.device) -> _Data:
    chunks_FTA, _ = chunk_actions(demos.actions_FA, demos.demo_lengths_D, num_steps=actions.num_actions_chunk)
    return _Data(
        images_FNHWC=torch.from_numpy(np.array(demos.images_FNHWC)).to(device),
        targets_FT=actions.encode_env_actions(torch.from_numpy(chunks_FTA)).to(device),
        tasks_F=torch.from_numpy(demos.frame_tasks()).to(device),
        instructions_KD=torch.from_numpy(np.stack([embed_instruction(text) for text in demos.languages])).to(device),
    )


def _train(
    module: SimpleCNN, data: _Data, demos: DemonstrationSet, config: PretrainConfig
) -> tuple[float, tuple[float, float]]:
    """Leave the averaged weights in ``module``; returns the last training loss and the validation's two numbers."""
    device = data.images_FNHWC.device
    generator = torch.Generator(device).manual_seed(config.seed)
    split = split_demonstrations(demos, validation_fraction=config.validation_fraction, seed=config.seed)
    train_frames = torch.from_numpy(split.train_frames).to(device)
    batches = shuffled_batches(train_frames, batch_size=config.batch_size, generator=generator)
    optimizer = torch.optim.AdamW(parameter_groups(module, weight_decay=config.weight_decay), lr=config.learning_rate)
    average = WeightAverage(module, decay=config.ema_decay)
    loss_of = _loss_function(module, data, config, generator)
    loss = torch.tensor(math.nan)
    with Progress("supervised training", total=config.num_steps, unit="steps") as bar:
        for step in range(config.num_steps):
            rate = learning_rate(
                step=step,
                progress=step / config.num_steps,
                base=config.learning_rate,
                num_warmup_steps=config.num_warmup_steps,
            )
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.zero_grad(set_to_none=True)
            loss = loss_of(next(batches))
            if not torch.isfinite(loss):
                raise FloatingPointError(f"the loss is {loss.item()} at step {step}; lower --lr")
            loss.backward()
            nn.utils.clip_grad_norm_(module.parameters(), config.max_grad_norm)
            optimizer.step()
            average.update(step)
            bar.advance(1, note=f"loss {loss.item():.3f}")
    average.swap()
    return loss.item(), _validate(module, data, torch.from_numpy(split.validation_frames).to(device))


def _loss_function(
    module: SimpleCNN, data: _Data, config: PretrainConfig, generator: torch.Generator
) -> Callable[[Tensor], Tensor]:
    table_VV = soft_label_table(module.bias_TV.shape[1], sigma=config.label_sigma)
    table_VV = None if table_VV is None else table_VV.to(data.images_FNHWC.device)
    num_cameras, size = data.images_FNHWC.shape[1:3]

    def loss_of(frames_B: Tensor) -> Tensor:
        numbers = config.augment.draw(
            num_samples=len(frames_B), num_cameras=num_cameras, image_size=size, generator=generator
        )
        images = numbers.apply(augment.fetch(data.images_FNHWC, frames_B, numbers.shift_BN2))
        logits_BTV = module(to_pixels(images), data.instructions_KD[data.tasks_F[frames_B]]).logits_BTV
        targets_BT = data.targets_FT[frames_B]
        return token_losses(logits_BTV, targets_BT, table_VV=table_VV).mean()

    return loss_of


@torch.no_grad()
def _validate(module: SimpleCNN, data: _Data, frames: Tensor) -> tuple[float, float]:
    """Cross-entropy with hard labels (nats) and share of right bins, over ``frames``."""
    if not len(frames):
        return math.nan, math.nan
    entropy, right = 0.0, 0.0
    for frames_B in frames.split(VALIDATION_BATCH):
        pixels = to_pixels(data.images_FNHWC[frames_B])
        logits_BTV = module(pixels, data.instructions_KD[data.tasks_F[frames_B]]).logits_BTV
        targets_BT = data.targets_FT[frames_B]
        entropy += float(nn.functional.cross_entropy(logits_BTV.transpose(1, 2), targets_BT)) * len(frames_B)
        right += float((logits_BTV.argmax(-1) == targets_BT).float().mean()) * len(frames_B)
    return entropy / len(frames), right / len(frames)
