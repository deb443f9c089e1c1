"""Training data and the path from frame indices to model inputs, without a host synchronisation.

Shapes: F frames, K tasks, B samples, L prompt slots, T action tokens (C chunk steps x A action dimensions),
N cameras, R vision towers, H = W pixels, C = 3 colours.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from openvla_oft.data import augment, oft_augment
from openvla_oft.data.dataset import DemonstrationSet, chunk_actions
from openvla_oft.data.demonstration import GRIPPER
from openvla_oft.data.frames import FrameStore
from transformers_openvla_oft.model.action_tokens import ActionTokenMap, gripper_from_env
from transformers_openvla_oft.model.configuration import OpenVLAConfig
from transformers_openvla_oft.processing import PrismaticProcessor


@dataclass(frozen=True)
class Batch:
    """One batch on the device."""

    images_BNHWC: Tensor
    """uint8"""
    input_ids_BL: Tensor
    attention_mask_BL: Tensor
    targets_BT: Tensor
    """int64 columns of the action logits."""
    actions_BCA: Tensor
    """The same targets as normalised actions, float32, before they were binned."""
    inside_BT: Tensor
    """bool: which targets count."""
    proprio_BP: Tensor | None = None
    """Normalised, float32."""
    padded: bool | None = None
    """Whether a prompt of the demonstrations has pads; None: not known."""

    def __len__(self) -> int:
        return len(self.targets_BT)

    def part(self, rows: slice) -> "Batch":
        """Some samples."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        taken: dict[str, Any] = {name: value[rows] for name, value in values.items() if isinstance(value, Tensor)}
        return replace(self, **taken)


@dataclass(frozen=True)
class DeviceData:
    """Everything a training step indexes, on one device; the images possibly in a file."""

    frames: FrameStore
    targets_FT: Tensor
    """Columns of the action logits, uint8 (V = 256 of them)."""
    actions_FCA: Tensor
    """Normalised actions, float32."""
    inside_FT: Tensor
    """bool: which targets count."""
    tasks_F: Tensor
    input_ids_KL: Tensor
    attention_mask_KL: Tensor
    padded: bool
    """Whether a prompt has pads: the same for all batches, so that a compiled step is compiled once."""
    means_R3: Tensor
    """Colour means and standard deviations of the model's R vision towers."""
    stds_R3: Tensor
    proprio_FP: Tensor | None = None
    """Normalised, float32."""
    center_crop: bool = False
    """Whether the policy sees the middle of each image when it acts."""

    @property
    def device(self) -> torch.device:
        """Where targets and prompts are, and images arrive."""
        return self.targets_FT.device

    def batch(self, frames_B: Tensor, shift_BN2: Tensor | None = None) -> Batch:
        """The frames of some indices (in CPU memory), their images moved by whole pixels where asked for."""
        images_BNHWC = self.frames.images(frames_B, shift_BN2)
        frames_B = frames_B.to(self.device)
        tasks_B = self.tasks_F[frames_B]
        return Batch(
            images_BNHWC=images_BNHWC,
            input_ids_BL=self.input_ids_KL[tasks_B],
            attention_mask_BL=self.attention_mask_KL[tasks_B],
            targets_BT=self.targets_FT[frames_B].long(),
            actions_BCA=self.actions_FCA[frames_B],
            inside_BT=self.inside_FT[frames_B],
            proprio_BP=None if self.proprio_FP is None else self.proprio_FP[frames_B],
            padded=self.padded,
        )

    def acting_pixels(self, images_BNHWC: Tensor) -> Tensor:
        """uint8 images to floats in [0, 1] as the policy sees them when it acts."""
        pixels_BNHWC = augment.plain(images_BNHWC)
        return oft_augment.crop_center(pixels_BNHWC) if self.center_crop else pixels_BNHWC

    def to_pixel_values(self, pixels_BNHWC: Tensor) -> Tensor:
        """Normalise colours in [0, 1] per tower, in the published channel layout (B, N * towers * 3, H, W)."""
        colours_BN1CHW = pixels_BNHWC.permute(0, 1, 4, 2, 3)[:, :, None]
        towers_BNRCHW = (colours_BN1CHW - self.means_R3[..., None, None]) / self.stds_R3[..., None, None]
        return towers_BNRCHW.flatten(1, 3)


def prepare(
    demos: DemonstrationSet,
    *,
    frames: FrameStore,
    config: OpenVLAConfig,
    processor: PrismaticProcessor,
    token_map: ActionTokenMap,
    after_end: str,
    proprio: NDArray[np.float32] | None = None,
    center_crop: bool = False,
) -> DeviceData:
    """Encode targets and prompts once and put them beside the frames.

    proprio: of every frame, normalised. center_crop: whether the policy sees the middle of each image when it acts.
    """
    if config.n_action_bins > 256:
        raise ValueError(f"n_action_bins={config.n_action_bins}: targets are stored as uint8, so at most 256")
    chunks, inside_FC = chunk_actions(demos.actions_FA, demos.demo_lengths_D, num_steps=config.num_actions_chunk)
    chunks_FCA = torch.from_numpy(chunks)
    counted_FC = inside_FC if after_end == "mask" else np.ones_like(inside_FC)
    input_ids_KL, attention_mask_KL = processor.encode_prompts(demos.languages)
    device = frames.device
    return DeviceData(
        frames=frames,
        targets_FT=token_map.encode_env_actions(chunks_FCA).to(torch.uint8).to(device),
        actions_FCA=normalised_actions(chunks_FCA, token_map).to(device),
        inside_FT=torch.from_numpy(np.repeat(counted_FC, config.action_dim, axis=1)).to(device),
        tasks_F=torch.from_numpy(demos.frame_tasks()).to(device),
        input_ids_KL=input_ids_KL.to(device),
        attention_mask_KL=attention_mask_KL.to(device),
        padded=not bool(attention_mask_KL.all()),
        means_R3=torch.tensor(processor.images.means, device=device),
        stds_R3=torch.tensor(processor.images.stds, device=device),
        proprio_FP=None if proprio is None else torch.from_numpy(proprio).to(device),
        center_crop=center_crop,
    )


def normalised_actions(env_actions_FCA: Tensor, token_map: ActionTokenMap) -> Tensor:
    """Environment actions as the L1 head predicts them: motion in [-1, 1], gripper 0 = closed and 1 = open; float32."""
    motion_FCM, gripper_FC1 = env_actions_FCA.double().split([GRIPPER, 1], dim=-1)
    return token_map.normalize(torch.cat([motion_FCM, gripper_from_env(gripper_FC1)], dim=-1)).float()


def shuffled_batches(frames: Tensor, *, batch_size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Endless batches of frame indices; every frame once per pass, batches run over the ends of passes."""
    rest = frames[:0]
    while True:
        while rest.numel() < batch_size:
            order = torch.randperm(frames.numel(), generator=generator, device=frames.device)
            rest = torch.cat([rest, frames[order]])
        yield rest[:batch_size]
        rest = rest[batch_size:]
