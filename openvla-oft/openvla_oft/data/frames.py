"""Where the images of the training frames are: all on the device, or in a file that batches are read from.

Shapes: F frames, B samples, N cameras, H = W pixels, C = 3 colours.
"""

import logging
import os
from abc import ABC, abstractmethod
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from openvla_oft.data import augment, dataset
from openvla_oft.data.dataset import DemonstrationSet
from openvla_oft.data.demonstration import DataOptions
from openvla_oft.torch_utils.distributed import Distributed

FRAMES_FOLDER = "frames"
COPY_FRAMES = 4096
MEMORY_SHARE = 0.5
"""Part of the free memory that images may take before they stay in a file."""

logger = logging.getLogger(__name__)


class FrameStore(ABC):
    """uint8 images (B, N, H, W, C) of frames by their indices, on ``device``."""

    def __init__(self, images_FNHWC: NDArray[np.uint8], device: torch.device) -> None:
        self.device = device
        self.num_cameras, self.image_size = images_FNHWC.shape[1:3]

    @abstractmethod
    def prefetch(self, frames_B: Tensor) -> None:
        """Say which frames come next."""

    @abstractmethod
    def images(self, frames_B: Tensor, shift_BN2: Tensor | None) -> Tensor:
        """Images, moved by whole pixels where asked for; see ``augment.fetch``."""


class DeviceFrames(FrameStore):
    """Every frame on the device: a step reads nothing else (128 pixels: 49 kB a frame, half a million take 25 GB)."""

    def __init__(self, images_FNHWC: NDArray[np.uint8], device: torch.device) -> None:
        super().__init__(images_FNHWC, device)
        self.images_FNHWC = _copy_frames(images_FNHWC, device)

    def prefetch(self, frames_B: Tensor) -> None:
        """Nothing to do."""

    def images(self, frames_B: Tensor, shift_BN2: Tensor | None) -> Tensor:
        """Gathered and moved in one step."""
        frames_B = frames_B.to(self.device)
        if shift_BN2 is None:
            return self.images_FNHWC[frames_B]
        return augment.fetch(self.images_FNHWC, frames_B, shift_BN2)


class FileFrames(FrameStore):
    """Frames in a memory-mapped file; the next batch is read by a thread while the device computes."""

    def __init__(self, images_FNHWC: NDArray[np.uint8], device: torch.device) -> None:
        super().__init__(images_FNHWC, device)
        self.images_FNHWC = images_FNHWC
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="frames")
        self._ahead: tuple[Tensor, Future[Tensor]] | None = None

    def prefetch(self, frames_B: Tensor) -> None:
        """Let the thread read what comes next."""
        self._ahead = (frames_B, self._thread.submit(self._read, frames_B))

    def images(self, frames_B: Tensor, shift_BN2: Tensor | None) -> Tensor:
        """Those that were read ahead wait already."""
        ahead, self._ahead = self._ahead, None
        if ahead is not None and torch.equal(ahead[0], frames_B):
            read_BNHWC = ahead[1].result()
        else:
            read_BNHWC = self._read(frames_B)
        images_BNHWC = read_BNHWC.to(self.device, non_blocking=True)
        if shift_BN2 is None:
            return images_BNHWC
        return augment.fetch(images_BNHWC, torch.arange(len(images_BNHWC), device=self.device), shift_BN2)

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


def load_demonstrations(
    options: DataOptions, *, frames: str, folder: Path, distributed: Distributed
) -> DemonstrationSet:
    """Read the demonstrations; several processes share one packed copy in ``folder``. Collective.

    A copy is also made where images are wanted in a file (``frames``), or would fill the main memory.
    """
    if (options.demonstrations / dataset.PACK_FILE).is_file():
        return dataset.load(options)
    alone = distributed.world_size == 1 and frames != "file"
    if alone and (frames == "device" or dataset.num_bytes(options) <= MEMORY_SHARE * _main_memory()):
        return dataset.load(options)
    packed = folder / FRAMES_FOLDER
    if distributed.is_first and not packed.exists():
        dataset.pack(options, packed)
    distributed.wait()
    return dataset.load(replace(options, demonstrations=packed))


def frame_store(images_FNHWC: NDArray[np.uint8], device: torch.device, *, kind: str) -> FrameStore:
    """Images on the device where they fit, else in the file that they come from."""
    if kind == "auto":
        free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else _main_memory()
        kind = "device" if images_FNHWC.nbytes <= MEMORY_SHARE * free else "file"
    logger.info("images: %.1f GB, %s", images_FNHWC.nbytes / 1e9, {"device": "on the device"}.get(kind, "in a file"))
    return DeviceFrames(images_FNHWC, device) if kind == "device" else FileFrames(images_FNHWC, device)


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


def _main_memory() -> int:
    """Bytes that are free or can be freed."""
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
