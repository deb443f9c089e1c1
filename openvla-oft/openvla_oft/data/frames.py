"""Where the pictures of the training frames are: all on the device, or in a file that batches are read from.

Shapes: F frames, B samples, N cameras, H = W pixels, C = 3 colours.
"""

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from openvla_oft.data import augment

COPY_FRAMES = 4096


class FrameStore(Protocol):
    """uint8 pictures (B, N, H, W, C) of frames by their indices, on ``device``."""

    device: torch.device
    num_cameras: int
    image_size: int

    def prefetch(self, frames_B: Tensor) -> None:
        """Say which frames come next."""

    def fetch(self, frames_B: Tensor, shift_BN2: Tensor) -> Tensor:
        """Pictures moved by whole pixels; see ``augment.fetch``."""

    def plain(self, frames_B: Tensor) -> Tensor:
        """Pictures as they are stored."""


class DeviceFrames:
    """Every frame on the device: a step reads nothing else (128 pixels: 49 kB a frame, half a million take 25 GB)."""

    def __init__(self, images_FNHWC: NDArray[np.uint8], device: torch.device) -> None:
        self.device = device
        self.num_cameras, self.image_size = images_FNHWC.shape[1:3]
        self.images_FNHWC = _copy_frames(images_FNHWC, device)

    def prefetch(self, frames_B: Tensor) -> None:
        """Nothing to do."""

    def fetch(self, frames_B: Tensor, shift_BN2: Tensor) -> Tensor:
        """Pictures moved by whole pixels."""
        return augment.fetch(self.images_FNHWC, frames_B.to(self.device), shift_BN2)

    def plain(self, frames_B: Tensor) -> Tensor:
        """Pictures as they are stored."""
        return self.images_FNHWC[frames_B.to(self.device)]


class FileFrames:
    """Frames in a memory-mapped file; the next batch is read by a thread while the device computes."""

    def __init__(self, images_FNHWC: NDArray[np.uint8], device: torch.device) -> None:
        self.device = device
        self.num_cameras, self.image_size = images_FNHWC.shape[1:3]
        self.images_FNHWC = images_FNHWC
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="frames")
        self._ahead: tuple[Tensor, Future[Tensor]] | None = None

    def prefetch(self, frames_B: Tensor) -> None:
        """Let the thread read what comes next."""
        self._ahead = (frames_B, self._thread.submit(self._read, frames_B))

    def fetch(self, frames_B: Tensor, shift_BN2: Tensor) -> Tensor:
        """Pictures moved by whole pixels."""
        images_BNHWC = self.plain(frames_B)
        return augment.fetch(images_BNHWC, torch.arange(len(images_BNHWC), device=self.device), shift_BN2)

    def plain(self, frames_B: Tensor) -> Tensor:
        """Pictures as they are stored; those that were read ahead wait already."""
        ahead, self._ahead = self._ahead, None
        if ahead is not None and torch.equal(ahead[0], frames_B):
            images_BNHWC = ahead[1].result()
        else:
            images_BNHWC = self._read(frames_B)
        return images_BNHWC.to(self.device, non_blocking=True)

    def _read(self, frames_B: Tensor) -> Tensor:
        """Read in the order of the file, which a disk likes, and put it back into the order asked for."""
        order = np.argsort(frames_B.numpy(), kind="stable")
        images = torch.empty((len(order), *self.images_FNHWC.shape[1:]), dtype=torch.uint8)
        if self.device.type == "cuda":
            images = images.pin_memory()
        view = images.numpy()
        for row in order:
            view[row] = self.images_FNHWC[int(frames_B[row])]
        return images


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
