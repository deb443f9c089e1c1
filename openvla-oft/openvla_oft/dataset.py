"""All demonstrations in memory: frames, actions, which frame belongs to which demonstration; chunk targets; the split.

Shapes: F frames over all demonstrations, D demonstrations, K tasks, N cameras, H x W pixels, C colour channels,
T steps of an action chunk, A action dimensions.
"""

import functools
import json
import logging
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from openvla_oft import hdf5
from openvla_oft.hdf5 import DemoInfo, DemonstrationError

logger = logging.getLogger(__name__)

PACK_FILE = "pack.json"
PACK_VERSION = 1
IMAGES_FILE = "images.npy"
GRIPPER = 6

_Part = tuple[NDArray[np.float32], NDArray[np.uint8] | None]
"""Actions of a demonstration, and its pictures unless they were written to a file."""


@dataclass(frozen=True)
class DemonstrationSet:
    """Every frame of every demonstration, demonstrations one after another.

    ``images_FNHWC`` uint8 as the policy sees them (possibly a read-only memory map), ``actions_FA`` float32 of the
    environment, ``demo_lengths_D`` and ``demo_tasks_D`` int64, ``languages`` one instruction per task.
    """

    images_FNHWC: NDArray[np.uint8]
    actions_FA: NDArray[np.float32]
    demo_lengths_D: NDArray[np.int64]
    demo_tasks_D: NDArray[np.int64]
    languages: tuple[str, ...]
    cameras: tuple[str, ...]

    def __post_init__(self) -> None:
        num_frames = int(self.demo_lengths_D.sum())
        if self.images_FNHWC.shape[0] != num_frames or self.actions_FA.shape != (num_frames, hdf5.ACTION_DIM):
            raise DemonstrationError(
                f"{num_frames} frames by demonstration lengths, but pictures {self.images_FNHWC.shape} "
                f"and actions {self.actions_FA.shape}"
            )
        if self.images_FNHWC.shape[1] != len(self.cameras):
            raise DemonstrationError(f"{self.images_FNHWC.shape[1]} pictures per frame for cameras {self.cameras}")
        if self.demo_tasks_D.shape != self.demo_lengths_D.shape or int(self.demo_tasks_D.max()) >= len(self.languages):
            raise DemonstrationError("demo_tasks_D must hold one task index per demonstration")

    @property
    def num_frames(self) -> int:
        return int(self.actions_FA.shape[0])

    @property
    def image_size(self) -> int:
        return int(self.images_FNHWC.shape[2])

    @property
    def demo_starts_D(self) -> NDArray[np.int64]:
        return np.cumsum(self.demo_lengths_D) - self.demo_lengths_D

    def frame_tasks(self) -> NDArray[np.int64]:
        """Task index of every frame, (F,)."""
        return np.repeat(self.demo_tasks_D, self.demo_lengths_D)


@dataclass(frozen=True)
class Split:
    """Frame indices for training and for validation; whole demonstrations are held out."""

    train_frames: NDArray[np.int64]
    validation_frames: NDArray[np.int64]


def chunk_actions(
    actions_FA: NDArray[np.float32], demo_lengths_D: NDArray[np.int64], *, num_steps: int
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """The next ``num_steps`` actions from every frame, and which of them the demonstration really holds.

    After a demonstration's end the target is "stay": zero motion with the last gripper command. All 56 tokens are
    sampled in RL, so an untrained position near the end, just where the object is released, would be random motion.
    Staying cannot freeze the policy: the first step of every target is always the expert's own.

    Returns (F, T, A) and a mask (F, T), True inside the demonstration.
    """
    ends_F = np.repeat(np.cumsum(demo_lengths_D), demo_lengths_D)
    wanted_FT = np.arange(actions_FA.shape[0])[:, None] + np.arange(num_steps)
    inside_FT = wanted_FT < ends_F[:, None]
    chunks_FTA = actions_FA[np.minimum(wanted_FT, ends_F[:, None] - 1)]
    chunks_FTA[..., :GRIPPER] *= inside_FT[..., None]
    return chunks_FTA, inside_FT


def split_demonstrations(demos: DemonstrationSet, *, validation_fraction: float, seed: int) -> Split:
    """Hold out the same share of each task's demonstrations: at least one where the task has two or more."""
    if not 0 <= validation_fraction < 1:
        raise ValueError(f"validation_fraction={validation_fraction} must lie in [0, 1)")
    generator = np.random.default_rng(seed)
    held_out_D = np.zeros(len(demos.demo_lengths_D), dtype=bool)
    for task in range(len(demos.languages)):
        members = np.flatnonzero(demos.demo_tasks_D == task)
        if validation_fraction > 0 and len(members) >= 2:
            count = min(max(1, round(validation_fraction * len(members))), len(members) - 1)
            held_out_D[generator.choice(members, size=count, replace=False)] = True
    held_out_F = np.repeat(held_out_D, demos.demo_lengths_D)
    return Split(train_frames=np.flatnonzero(~held_out_F), validation_frames=np.flatnonzero(held_out_F))


def load(
    source: Path,
    *,
    suite: str,
    cameras: Sequence[str],
    image_size: int,
    action_key: str = "actions",
    max_demos_per_task: int | None = None,
    num_workers: int = 0,
) -> DemonstrationSet:
    """Read a folder of HDF5 files, or one written by ``python -m openvla_oft.pack``."""
    if (source / PACK_FILE).is_file():
        return _load_pack(source, cameras=cameras, image_size=image_size, max_demos_per_task=max_demos_per_task)
    infos = _select(
        hdf5.scan(hdf5.find_files(source, suite), cameras=cameras, action_key=action_key), max_demos_per_task
    )
    num_frames = sum(info.num_steps for info in infos)
    images_FNHWC = np.empty((num_frames, len(cameras), image_size, image_size, 3), dtype=np.uint8)
    return _fill(infos, images_FNHWC, cameras=cameras, action_key=action_key, num_workers=num_workers)


def pack(
    source: Path,
    output: Path,
    *,
    suite: str,
    cameras: Sequence[str],
    image_size: int,
    action_key: str = "actions",
    max_demos_per_task: int | None = None,
    num_workers: int = 0,
) -> DemonstrationSet:
    """Write the resized frames once, as .npy files that ``load`` memory-maps, so that several trainings share them."""
    if output.exists():
        raise DemonstrationError(f"{output} exists; remove it or give another --output")
    infos = _select(
        hdf5.scan(hdf5.find_files(source, suite), cameras=cameras, action_key=action_key), max_demos_per_task
    )
    partial = output.with_name(f"{output.name}.partial-{os.getpid()}")
    partial.mkdir(parents=True)
    try:
        shape = (sum(info.num_steps for info in infos), len(cameras), image_size, image_size, 3)
        images_FNHWC = np.lib.format.open_memmap(partial / IMAGES_FILE, mode="w+", dtype=np.uint8, shape=shape)
        demos = _fill(
            infos,
            images_FNHWC,
            cameras=cameras,
            action_key=action_key,
            num_workers=num_workers,
            file=partial / IMAGES_FILE,
        )
        images_FNHWC.flush()
        np.save(partial / "actions.npy", demos.actions_FA)
        np.save(partial / "demo_lengths.npy", demos.demo_lengths_D)
        np.save(partial / "demo_tasks.npy", demos.demo_tasks_D)
        description = {"version": PACK_VERSION, "languages": demos.languages, "cameras": demos.cameras, "suite": suite}
        (partial / PACK_FILE).write_text(json.dumps(description, indent=1) + "\n")
        partial.rename(output)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return demos


def _load_pack(
    folder: Path, *, cameras: Sequence[str], image_size: int, max_demos_per_task: int | None
) -> DemonstrationSet:
    description = json.loads((folder / PACK_FILE).read_text())
    if description.get("version") != PACK_VERSION:
        raise DemonstrationError(
            f"{folder / PACK_FILE}: version {description.get('version')}, expected {PACK_VERSION}; pack again"
        )
    images_FNHWC = np.load(folder / IMAGES_FILE, mmap_mode="r")
    if tuple(description["cameras"]) != tuple(cameras) or images_FNHWC.shape[2] != image_size:
        raise DemonstrationError(
            f"{folder} was packed for cameras {description['cameras']} at {images_FNHWC.shape[2]} pixels, but "
            f"{list(cameras)} at {image_size} are wanted; pack again with these"
        )
    demos = DemonstrationSet(
        images_FNHWC=images_FNHWC,
        actions_FA=np.load(folder / "actions.npy"),
        demo_lengths_D=np.load(folder / "demo_lengths.npy"),
        demo_tasks_D=np.load(folder / "demo_tasks.npy"),
        languages=tuple(description["languages"]),
        cameras=tuple(cameras),
    )
    return demos if max_demos_per_task is None else _first_demos(demos, max_demos_per_task)


def _first_demos(demos: DemonstrationSet, max_demos_per_task: int) -> DemonstrationSet:
    """Keep the first demonstrations of each task."""
    keep_D = np.zeros(len(demos.demo_lengths_D), dtype=bool)
    for task in range(len(demos.languages)):
        keep_D[np.flatnonzero(demos.demo_tasks_D == task)[:max_demos_per_task]] = True
    keep_F = np.repeat(keep_D, demos.demo_lengths_D)
    return DemonstrationSet(
        images_FNHWC=demos.images_FNHWC[keep_F],
        actions_FA=demos.actions_FA[keep_F],
        demo_lengths_D=demos.demo_lengths_D[keep_D],
        demo_tasks_D=demos.demo_tasks_D[keep_D],
        languages=demos.languages,
        cameras=demos.cameras,
    )


def _select(infos: Sequence[DemoInfo], max_demos_per_task: int | None) -> list[DemoInfo]:
    if max_demos_per_task is None:
        return list(infos)
    if max_demos_per_task < 1:
        raise DemonstrationError(f"max_demos_per_task={max_demos_per_task} must be at least 1")
    counts: dict[str, int] = {}
    kept = []
    for info in infos:
        counts[info.language] = counts.get(info.language, 0) + 1
        if counts[info.language] <= max_demos_per_task:
            kept.append(info)
    return kept


def _fill(
    infos: Sequence[DemoInfo],
    images_FNHWC: NDArray[np.uint8],
    *,
    cameras: Sequence[str],
    action_key: str,
    num_workers: int,
    file: Path | None = None,
) -> DemonstrationSet:
    """Read every demonstration into its slice of ``images_FNHWC``.

    Where that array is a memory map of ``file``, the workers write there themselves: passing gigabytes of pictures
    between processes would take longer than reading them.
    """
    lengths_D = np.array([info.num_steps for info in infos], dtype=np.int64)
    starts_D = np.cumsum(lengths_D) - lengths_D
    actions_FA = np.empty((images_FNHWC.shape[0], hdf5.ACTION_DIM), dtype=np.float32)
    job = functools.partial(
        _read_part, cameras=tuple(cameras), image_size=images_FNHWC.shape[2], action_key=action_key, file=file
    )
    parts = _map_in_order(job, list(zip(infos, starts_D.tolist(), strict=True)), num_workers=num_workers)
    bar = tqdm(parts, total=len(infos), desc="reading demonstrations", unit="demo", mininterval=1.0)
    for start, length, (actions_TA, images_TNHWC) in zip(starts_D, lengths_D, bar, strict=True):
        actions_FA[start : start + length] = actions_TA
        if images_TNHWC is not None:
            images_FNHWC[start : start + length] = images_TNHWC
    languages = tuple(dict.fromkeys(info.language for info in infos))
    tasks_D = np.array([languages.index(info.language) for info in infos], dtype=np.int64)
    return DemonstrationSet(
        images_FNHWC=images_FNHWC,
        actions_FA=actions_FA,
        demo_lengths_D=lengths_D,
        demo_tasks_D=tasks_D,
        languages=languages,
        cameras=tuple(cameras),
    )


def _read_part(
    part: tuple[DemoInfo, int], *, cameras: tuple[str, ...], image_size: int, action_key: str, file: Path | None
) -> _Part:
    """Read one demonstration; write its pictures into ``file`` from the given frame on, or return them."""
    info, start = part
    demo = hdf5.read_demo(info, cameras=cameras, image_size=image_size, action_key=action_key)
    if file is None:
        return demo.actions_TA, demo.images_TNHWC
    np.load(file, mmap_mode="r+")[start : start + info.num_steps] = demo.images_TNHWC
    return demo.actions_TA, None


def _map_in_order(
    job: Callable[[tuple[DemoInfo, int]], _Part], items: Sequence[tuple[DemoInfo, int]], *, num_workers: int
) -> Iterator[_Part]:
    """Results in the order of the items; with workers, at most four per worker wait in memory."""
    if num_workers < 2:
        yield from map(job, items)
        return
    # "spawn": a forked child of a process that used OpenMP or CUDA can hang.
    with ProcessPoolExecutor(num_workers, mp_context=get_context("spawn"), initializer=_one_thread) as pool:
        pending: deque[Future[_Part]] = deque()
        for item in items:
            pending.append(pool.submit(job, item))
            if len(pending) >= 4 * num_workers:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def _one_thread() -> None:
    torch.set_num_threads(1)
