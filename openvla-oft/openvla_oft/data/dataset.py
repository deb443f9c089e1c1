"""All demonstrations as arrays: frames, actions, which frame belongs to which demonstration; chunk targets; the split.

Shapes: F frames over all demonstrations, D demonstrations, K tasks, N cameras, H x W pixels, C colour channels,
T steps of an action chunk, A action dimensions.
"""

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from libero_runtime.files import whole_folder
from libero_runtime.suites import instruction
from openvla_oft.data import reader
from openvla_oft.data.demonstration import (
    GRIPPER,
    DataOptions,
    DemoInfo,
    DemonstrationError,
    ReadOptions,
)
from openvla_oft.data.images import stored_form
from transformers_openvla_oft.loading import read_object

PACK_FILE = "pack.json"
PACK_VERSION = 1
IMAGES_FILE = "images.npy"


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
    proprio_FP: NDArray[np.float32] | None = None
    """Proprioception, where it was read."""

    def __post_init__(self) -> None:
        num_frames = int(self.demo_lengths_D.sum())
        lengths = {len(array) for array in (self.images_FNHWC, self.actions_FA, self.proprio_FP) if array is not None}
        if lengths != {num_frames} or self.demo_tasks_D.shape != self.demo_lengths_D.shape:
            raise DemonstrationError(
                f"arrays of different demonstrations: of {num_frames} frames by their lengths, and of {lengths}; "
                f"pack again"
            )

    @property
    def num_frames(self) -> int:
        """Frames of all demonstrations together."""
        return int(self.actions_FA.shape[0])

    @property
    def image_size(self) -> int:
        """Side of the square images in pixels."""
        return int(self.images_FNHWC.shape[2])

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
    generator = np.random.default_rng(seed)
    held_out_D = np.zeros(len(demos.demo_lengths_D), dtype=bool)
    for task in range(len(demos.languages)):
        members = np.flatnonzero(demos.demo_tasks_D == task)
        if validation_fraction > 0 and len(members) >= 2:
            count = min(max(1, round(validation_fraction * len(members))), len(members) - 1)
            held_out_D[generator.choice(members, size=count, replace=False)] = True
    held_out_F = np.repeat(held_out_D, demos.demo_lengths_D)
    return Split(train_frames=np.flatnonzero(~held_out_F), validation_frames=np.flatnonzero(held_out_F))


def load(options: DataOptions) -> DemonstrationSet:
    """Read a folder of HDF5 files or of RLDS shards, or one written by ``python -m openvla_oft.pack``."""
    if (options.demonstrations / PACK_FILE).is_file():
        return _load_pack(options)
    infos = reader.scan_suites(options)
    images_FNHWC = np.empty(_shape(infos, options), dtype=np.uint8)
    return _read(infos, images_FNHWC, options)


def num_bytes(options: DataOptions) -> int:
    """Size of the images that ``load`` would read."""
    return int(np.prod(_shape(reader.scan_suites(options), options)))


def pack(options: DataOptions, output: Path) -> DemonstrationSet:
    """Write the resized frames once, as .npy files that ``load`` memory-maps, so that several trainings share them."""
    infos = reader.scan_suites(options)
    with whole_folder(output) as partial:
        file = partial / IMAGES_FILE
        images_FNHWC = np.lib.format.open_memmap(file, mode="w+", dtype=np.uint8, shape=_shape(infos, options))
        with file.open("r+b") as stored:  # a disk that is full while a memory map grows would kill the process
            os.posix_fallocate(stored.fileno(), 0, file.stat().st_size)
        demos = _read(infos, images_FNHWC, options, file=file)
        images_FNHWC.flush()
        np.save(partial / "actions.npy", demos.actions_FA)
        np.save(partial / "demo_lengths.npy", demos.demo_lengths_D)
        np.save(partial / "demo_tasks.npy", demos.demo_tasks_D)
        if demos.proprio_FP is not None:
            np.save(partial / "proprio.npy", demos.proprio_FP)
        description = {"version": PACK_VERSION, "languages": demos.languages, **_described(options)}
        (partial / PACK_FILE).write_text(json.dumps(description, indent=1) + "\n")
    return demos


def _load_pack(options: DataOptions) -> DemonstrationSet:
    folder = options.demonstrations
    description = read_object(folder / PACK_FILE, expected="how demonstrations were packed")
    if options.proprio and not (folder / "proprio.npy").is_file():
        raise DemonstrationError(f"{folder} was packed without --proprio; pack again with it")
    names = ["actions", "demo_lengths", "demo_tasks", *(["proprio"] if options.proprio else [])]
    try:
        images_FNHWC = np.load(folder / IMAGES_FILE, mmap_mode="r")
        arrays = {name: np.load(folder / f"{name}.npy") for name in names}
    except (OSError, ValueError) as error:
        raise DemonstrationError(f"{folder} is incomplete or corrupt ({error}); pack again") from error
    _check_pack(description, images_FNHWC.shape[2], options)
    return DemonstrationSet(
        images_FNHWC=images_FNHWC,
        actions_FA=arrays["actions"],
        demo_lengths_D=arrays["demo_lengths"],
        demo_tasks_D=arrays["demo_tasks"],
        languages=tuple(instruction(stated) or stated for stated in description["languages"]),
        cameras=options.cameras,
        proprio_FP=arrays.get("proprio"),
    )


def _check_pack(description: dict[str, Any], image_size: int, options: DataOptions) -> None:
    """Raise where a folder was packed with other options than it is read with."""
    if description.get("version") != PACK_VERSION:
        raise DemonstrationError(
            f"{options.demonstrations / PACK_FILE}: version {description.get('version')}, expected {PACK_VERSION}; "
            f"pack again"
        )
    # Older packs say less: what is not noted was not an option then.
    stored = {"drop_noops": False, "pictures": ReadOptions.pictures}
    stored |= {**description, "image_size": image_size}
    for name, wanted in {**_described(options), "image_size": options.image_size}.items():
        if stored.get(name) != wanted:
            raise DemonstrationError(
                f"{options.demonstrations} was packed with --{name.replace('_', '-')} {stored.get(name)}, but {wanted} "
                f"is needed here; pack again, or give the same option"
            )


def _described(options: DataOptions) -> dict[str, object]:
    """The options that a pack depends on, as ``pack.json`` has them."""
    return {
        "suite": options.suite,
        "cameras": list(options.cameras),
        "drop_noops": options.drop_noops,
        "pictures": stored_form(options.pictures),
    }


def _shape(infos: Sequence[DemoInfo], options: DataOptions) -> tuple[int, ...]:
    assert options.image_size is not None
    size = options.image_size
    return sum(info.num_steps for info in infos), len(options.cameras), size, size, 3


def _read(
    infos: Sequence[DemoInfo], images_FNHWC: NDArray[np.uint8], options: DataOptions, file: Path | None = None
) -> DemonstrationSet:
    """Read into ``images_FNHWC``, which may be a memory map of ``file``."""
    actions_FA, proprio_FP = reader.fill(infos, images_FNHWC, options, file=file)
    languages = tuple(dict.fromkeys(info.language for info in infos))
    return DemonstrationSet(
        images_FNHWC=images_FNHWC,
        actions_FA=actions_FA,
        demo_lengths_D=np.array([info.num_steps for info in infos], dtype=np.int64),
        demo_tasks_D=np.array([languages.index(info.language) for info in infos], dtype=np.int64),
        languages=languages,
        cameras=options.cameras,
        proprio_FP=proprio_FP,
    )
