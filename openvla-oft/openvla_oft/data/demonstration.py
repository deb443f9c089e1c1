"""What a demonstration is, whatever file it comes from, and the checks and the filter that all readers share.

Shapes: T steps, N cameras, H x W pixels, C colour channels, A = 7 action dimensions.

Timing. Images of step t are what the policy saw when it chose action t. Actions are the environment's own: six
controller deltas in [-1, 1] and the gripper, -1 open and +1 close.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from libero_runtime.cpus import num_cpus
from libero_runtime.options import Option
from openvla_oft.data.images import PICTURES

ACTION_DIM = 7
GRIPPER = 6
"""The action dimension that is no motion."""
PROPRIO_DIM = 8
"""End-effector position and axis-angle, two finger positions."""
CAMERAS = ("agentview", "eye_in_hand")
RANGE_TOLERANCE = 1e-6
NOOP_MOTION = 1e-4
"""Length of the six motion dimensions below which a step moves nothing."""


class DemonstrationError(ValueError):
    """Demonstrations on disk are missing or malformed; the message names the file and the demonstration."""


@dataclass(frozen=True)
class DemoInfo:
    """Where one demonstration is and how many steps it keeps."""

    path: Path
    name: str
    language: str
    num_steps: int
    offset: int = 0
    """Byte of its record in an RLDS shard."""
    suite: str | None = None
    """LIBERO suite that the file says it is of, where it does."""


@dataclass(frozen=True)
class Demo:
    """One demonstration as the policy sees it: ``images_TNHWC`` uint8 upright and resized, ``actions_TA`` float32."""

    images_TNHWC: NDArray[np.uint8]
    actions_TA: NDArray[np.float32]
    proprio_TP: NDArray[np.float32] | None = None
    """Proprioception, where it was asked for."""


@dataclass(frozen=True)
class ReadOptions:
    """How demonstrations are read; ``image_size`` None keeps the images' own."""

    cameras: Annotated[tuple[str, ...], Option("comma-separated: agentview, eye_in_hand (default: agentview)")] = (
        "agentview",
    )
    image_size: int | None = None
    drop_noops: Annotated[bool, Option("leave out steps that move nothing and keep the gripper as it is")] = False
    proprio: Annotated[bool, Option("read what the robot feels, too (training: --layout oft)")] = False
    pictures: Annotated[
        str,
        Option(
            "how images come to the policy's size: as in reinforcement learning, or as in the OpenVLA-OFT "
            "repository, trained without or with its random crops (packing: stored alike)",
            choices=tuple(PICTURES),
        ),
    ] = "rl"

    def __post_init__(self) -> None:
        for camera in self.cameras:
            if camera not in CAMERAS:
                raise DemonstrationError(f"unknown camera {camera!r}; expected one of {sorted(CAMERAS)}")
        if len(set(self.cameras)) != len(self.cameras):
            raise DemonstrationError(f"--cameras {','.join(self.cameras)} names a camera twice; give each once")


@dataclass(frozen=True, kw_only=True)
class DataOptions(ReadOptions):
    """Which demonstrations are read, and how."""

    demonstrations: Annotated[
        Path,
        Option("folder of LIBERO HDF5 files or of RLDS shards, or one written by openvla_oft.pack", may_change=True),
    ]
    suite: Annotated[
        str, Option("subfolder of the demonstrations and name of the statistics; several with commas between")
    ] = "libero_spatial"
    num_workers: Annotated[int, Option("processes that read (0: none)", may_change=True, least=0)] = field(
        default_factory=num_cpus
    )


def is_data(path: Path) -> bool:
    """Whether a file that is named like demonstrations holds any: macOS writes ``._x.hdf5`` beside ``x.hdf5``, and
    Jupyter keeps copies in ``.ipynb_checkpoints``."""
    return path.is_file() and not path.name.startswith(".") and path.parent.name != ".ipynb_checkpoints"


def kept_steps(actions_TA: NDArray[np.floating], *, drop_noops: bool, where: str) -> NDArray[np.bool_]:
    """Which steps are trained on: all, or those that are no no-ops.

    A no-op, as OpenVLA-OFT's data preparation defines it, does not move (the six deltas are shorter than 1e-4) and has
    the gripper command of the last kept step; before the first kept step the gripper does not matter.
    """
    if not drop_noops:
        return np.ones(len(actions_TA), dtype=bool)
    moving_T = np.linalg.norm(actions_TA[:, :-1].astype(np.float64), axis=1) >= NOOP_MOTION
    kept_T = np.zeros(len(actions_TA), dtype=bool)
    gripper: float | None = None
    for step, (moving, command) in enumerate(zip(moving_T.tolist(), actions_TA[:, -1].tolist(), strict=True)):
        kept_T[step] = moving or (gripper is not None and command != gripper)
        if kept_T[step]:
            gripper = command
    if not kept_T.any():
        raise DemonstrationError(f"{where}: all {len(kept_T)} steps are no-ops; remove it, or read with no-ops")
    return kept_T


def checked_proprio(parts: Sequence[NDArray[np.float32]], num_steps: int, *, where: str) -> NDArray[np.float32]:
    """Proprioception (T, P) put together; raises where shapes or numbers are wrong."""
    shapes = [part.shape for part in parts]
    if any(len(shape) != 2 or shape[0] != num_steps for shape in shapes) or sum(s[1] for s in shapes) != PROPRIO_DIM:
        raise DemonstrationError(
            f"{where}: proprioception of shapes {shapes}, expected ({num_steps}, {PROPRIO_DIM}) in all"
        )
    proprio_TP = np.concatenate(parts, axis=1).astype(np.float32)
    if not np.isfinite(proprio_TP).all():
        step, dim = np.argwhere(~np.isfinite(proprio_TP))[0]
        raise DemonstrationError(f"{where}: proprioception {proprio_TP[step, dim]} at step {step}, dimension {dim}")
    return proprio_TP


def check_actions(actions_TA: NDArray[np.float32], *, where: str) -> None:
    """Raise unless every number is finite and lies in the environment's range."""
    if not np.isfinite(actions_TA).all():
        step, dim = np.argwhere(~np.isfinite(actions_TA))[0]
        raise DemonstrationError(
            f"{where}: action {actions_TA[step, dim]} at step {step}, dimension {dim}; expected finite numbers"
        )
    largest = float(np.abs(actions_TA).max())
    if largest > 1 + RANGE_TOLERANCE:
        raise DemonstrationError(f"{where}: an action of size {largest:g}; the environment's actions lie in [-1, 1]")
