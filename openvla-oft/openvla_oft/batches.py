"""Training data on one device and the path from frame indices to model inputs, without a host synchronisation.

Shapes: F frames, K tasks, B samples, L prompt slots, T = 56 action tokens, N cameras, R vision towers,
H = W pixels, C = 3 colours.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from openvla_oft.dataset import DemonstrationSet, chunk_actions
from transformers_openvla_oft.action_tokens import ActionTokenMap
from transformers_openvla_oft.configuration import OpenVLAConfig
from transformers_openvla_oft.processing import PrismaticProcessor

AFTER_END = ("hold", "mask")
COPY_FRAMES = 4096


@dataclass(frozen=True)
class DeviceData:
    """Everything a training step indexes, on one device."""

    images_FNHWC: Tensor
    """uint8"""
    targets_FT: Tensor
    """Columns of the action logits, uint8 (V = 256 of them)."""
    inside_FT: Tensor
    """bool: which targets count."""
    tasks_F: Tensor
    input_ids_KL: Tensor
    attention_mask_KL: Tensor
    means_R3: Tensor
    """Colour means and standard deviations of the model's R vision towers."""
    stds_R3: Tensor

    @property
    def device(self) -> torch.device:
        return self.images_FNHWC.device

    def to_pixel_values(self, pixels_BNHWC: Tensor) -> Tensor:
        """Normalise colours in [0, 1] per tower, in the published channel layout (B, N * towers * 3, H, W)."""
        colours_BN1CHW = pixels_BNHWC.permute(0, 1, 4, 2, 3)[:, :, None]
        towers_BNRCHW = (colours_BN1CHW - self.means_R3[..., None, None]) / self.stds_R3[..., None, None]
        return towers_BNRCHW.flatten(1, 3)


def to_device(
    demos: DemonstrationSet,
    *,
    config: OpenVLAConfig,
    processor: PrismaticProcessor,
    token_map: ActionTokenMap,
    after_end: str,
    device: torch.device,
) -> DeviceData:
    """Copy the frames to the device in slices and encode targets and prompts once."""
    if after_end not in AFTER_END:
        raise ValueError(f"after_end={after_end!r}: expected one of {AFTER_END}")
    size = config.image_sizes[0] if config.image_sizes else 0
    if demos.image_size != size or len(demos.cameras) != config.num_images_in_input:
        raise ValueError(
            f"frames are {len(demos.cameras)} x {demos.image_size} pixels, but the model takes "
            f"{config.num_images_in_input} x {size}"
        )
    targets_FT, inside_FT = encode_targets(demos, config=config, token_map=token_map, after_end=after_end)
    input_ids_KL, attention_mask_KL = processor.encode_prompts(demos.languages)
    return DeviceData(
        images_FNHWC=_copy_frames(demos.images_FNHWC, device),
        targets_FT=torch.from_numpy(targets_FT).to(device),
        inside_FT=torch.from_numpy(inside_FT).to(device),
        tasks_F=torch.from_numpy(demos.frame_tasks()).to(device),
        input_ids_KL=input_ids_KL.to(device),
        attention_mask_KL=attention_mask_KL.to(device),
        means_R3=torch.tensor(processor.images.means, device=device),
        stds_R3=torch.tensor(processor.images.stds, device=device),
    )


def encode_targets(
    demos: DemonstrationSet, *, config: OpenVLAConfig, token_map: ActionTokenMap, after_end: str
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Logit columns (F, 56) of the next chunk of actions from every frame, and which of them count."""
    chunks_FTA, inside_FT = chunk_actions(demos.actions_FA, demos.demo_lengths_D, num_steps=config.num_actions_chunk)
    columns_FT = token_map.encode_env_actions(torch.from_numpy(chunks_FTA))
    if config.n_action_bins > 256:
        raise ValueError(f"n_action_bins={config.n_action_bins}: targets are stored as uint8, so at most 256")
    counted_FT = inside_FT if after_end == "mask" else np.ones_like(inside_FT)
    return columns_FT.to(torch.uint8).numpy(), np.repeat(counted_FT, config.action_dim, axis=1)


def shuffled_batches(frames: Tensor, *, batch_size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Endless batches of frame indices; every frame once per pass, batches run over the ends of passes."""
    if frames.numel() == 0:
        raise ValueError("no training frames")
    rest = frames[:0]
    while True:
        while rest.numel() < batch_size:
            order = torch.randperm(frames.numel(), generator=generator, device=frames.device)
            rest = torch.cat([rest, frames[order]])
        yield rest[:batch_size]
        rest = rest[batch_size:]


def _copy_frames(images_FNHWC: NDArray[np.uint8], device: torch.device) -> Tensor:
    if device.type == "cpu":
        return torch.from_numpy(np.array(images_FNHWC))
    frames = torch.empty(images_FNHWC.shape, dtype=torch.uint8, device=device)
    for start in tqdm(
        range(0, len(images_FNHWC), COPY_FRAMES), desc="copying frames to the GPU", unit="slice", mininterval=1.0
    ):
        part = np.array(images_FNHWC[start : start + COPY_FRAMES])  # a copy: a memory map is read-only
        frames[start : start + len(part)].copy_(torch.from_numpy(part))
    return frames
