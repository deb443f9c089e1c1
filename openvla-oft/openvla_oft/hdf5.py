"""Reader of LIBERO's HDF5 demonstrations: one file per task, ``data/demo_<i>/{obs/agentview_rgb, actions, ...}``.

Shapes: T steps of one demonstration, N cameras, H x W pixels, C colour channels, A = 7 action dimensions.

Orientation. LIBERO stores pictures as the simulator's OpenGL buffer gives them; the policy sees them rotated by 180
degrees (both image axes reversed), as OpenVLA's data preparation and its LIBERO evaluation do. The reader rotates.

Timing. ``obs[t]`` is what the policy saw when it chose ``actions[t]``.

Actions are the environment's own: six controller deltas in [-1, 1] and the gripper, -1 open and +1 close.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

ACTION_DIM = 7
CAMERA_KEYS = {"agentview": "agentview_rgb", "eye_in_hand": "eye_in_hand_rgb"}
"""Camera name on the command line -> dataset under ``obs`` in LIBERO's layout."""
RANGE_TOLERANCE = 1e-6


class DemonstrationError(ValueError):
    """Demonstrations on disk are missing or malformed; the message names the file and the demonstration."""


@dataclass(frozen=True)
class DemoInfo:
    """Where one demonstration is and how long it is."""

    path: Path
    name: str
    language: str
    num_steps: int


@dataclass(frozen=True)
class Demo:
    """One demonstration as the policy sees it: ``images_TNHWC`` uint8 rotated and resized, ``actions_TA`` float32."""

    images_TNHWC: NDArray[np.uint8]
    actions_TA: NDArray[np.float32]


def find_files(folder: Path, suite: str) -> list[Path]:
    """The suite's files, sorted by name: ``folder/<suite>/*.hdf5`` where that folder exists, else ``folder/*.hdf5``."""
    if not folder.is_dir():
        raise DemonstrationError(
            f"demonstrations folder {folder} does not exist; expected LIBERO HDF5 files there, for example made by "
            f"`python -m libero_runtime.demonstrations --suite {suite} --output {folder}`"
        )
    inner = folder / suite
    files = sorted((inner if inner.is_dir() else folder).glob("*.hdf5"))
    if not files:
        raise DemonstrationError(f"no *.hdf5 file in {folder} (or {inner}); expected one per task of {suite}")
    return files


def scan(files: Sequence[Path], *, cameras: Sequence[str], action_key: str = "actions") -> list[DemoInfo]:
    """List every demonstration of the files and check layout and shapes without reading pictures."""
    for camera in cameras:
        if camera not in CAMERA_KEYS:
            raise DemonstrationError(f"unknown camera {camera!r}; expected one of {sorted(CAMERA_KEYS)}")
    infos: list[DemoInfo] = []
    for path in files:
        try:
            with h5py.File(path, "r") as file:
                infos += _scan_file(file, path, cameras, action_key)
        except OSError as error:
            raise DemonstrationError(
                f"{path} cannot be read as HDF5 ({error}); make the demonstrations again"
            ) from error
    return infos


def read_demo(info: DemoInfo, *, cameras: Sequence[str], image_size: int, action_key: str = "actions") -> Demo:
    """Read one demonstration, check its numbers, rotate its pictures by 180 degrees and resize them."""
    with h5py.File(info.path, "r") as file:
        group = file["data"][info.name]
        actions_TA = np.asarray(group[action_key][()], dtype=np.float32)
        images = [
            resize_images(rotate_180(group["obs"][CAMERA_KEYS[camera]][()]), image_size=image_size)
            for camera in cameras
        ]
    _check_actions(actions_TA, where=f"{info.path}, {info.name}")
    return Demo(images_TNHWC=np.stack(images, axis=1), actions_TA=actions_TA)


def rotate_180(images_THWC: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Reverse both image axes: from LIBERO's stored orientation to the one the policy sees."""
    return np.ascontiguousarray(images_THWC[:, ::-1, ::-1])


def resize_images(images_THWC: NDArray[np.uint8], *, image_size: int) -> NDArray[np.uint8]:
    """Bicubic with antialiasing in float32, clamped and rounded: the policy's own image path up to its uint8 step.

    The result is stored as uint8, so resizing once here and again (to the same size, an identity) in the processor
    gives exactly the picture the policy sees in the environment. torch's uint8 kernel is faster but differs by
    several levels.
    """
    if images_THWC.shape[1:3] == (image_size, image_size):
        return images_THWC
    pixels_TCHW = torch.from_numpy(images_THWC).permute(0, 3, 1, 2).to(torch.float32)
    size = (image_size, image_size)
    resized_TCHW = nn.functional.interpolate(
        pixels_TCHW, size=size, mode="bicubic", align_corners=False, antialias=True
    )
    resized: NDArray[np.uint8] = (
        resized_TCHW.clamp_(0, 255).round_().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
    )
    return resized


def _scan_file(file: h5py.File, path: Path, cameras: Sequence[str], action_key: str) -> list[DemoInfo]:
    if "data" not in file:
        raise DemonstrationError(f"{path} has no group 'data'; expected LIBERO's layout data/demo_<i>/...")
    data = file["data"]
    names = sorted((name for name in data if re.fullmatch(r"demo_\d+", name)), key=lambda name: int(name[5:]))
    if not names:
        raise DemonstrationError(f"{path} holds no demonstration (data/demo_<i>); its groups are {sorted(data)[:5]}")
    language = _language(data, path)
    infos = []
    for name in names:
        num_steps = _check_shapes(data[name], cameras=cameras, action_key=action_key, where=f"{path}, {name}")
        infos.append(DemoInfo(path=path, name=name, language=language, num_steps=num_steps))
    return infos


def _check_shapes(group: h5py.Group, *, cameras: Sequence[str], action_key: str, where: str) -> int:
    """Raise unless actions are (T, 7) and every camera is (T, H, H, 3) uint8; return T."""
    if action_key not in group:
        raise DemonstrationError(f"{where}: no dataset {action_key!r}; present: {sorted(group)}")
    shape = group[action_key].shape
    if len(shape) != 2 or shape[1] != ACTION_DIM or shape[0] < 1:
        raise DemonstrationError(f"{where}: {action_key} has shape {shape}, expected (T >= 1, {ACTION_DIM})")
    for camera in cameras:
        key = CAMERA_KEYS[camera]
        if "obs" not in group or key not in group["obs"]:
            raise DemonstrationError(f"{where}: no dataset obs/{key} for camera {camera!r}")
        images = group["obs"][key]
        square = len(images.shape) == 4 and images.shape[1] == images.shape[2] and images.shape[3] == 3
        if not square or images.shape[0] != shape[0] or images.dtype != np.uint8:
            raise DemonstrationError(
                f"{where}: obs/{key} is {images.dtype} {images.shape}, expected uint8 ({shape[0]}, H, H, 3): "
                f"one square picture per action"
            )
    return int(shape[0])


def _check_actions(actions_TA: NDArray[np.float32], *, where: str) -> None:
    if not np.isfinite(actions_TA).all():
        step, dim = np.argwhere(~np.isfinite(actions_TA))[0]
        raise DemonstrationError(
            f"{where}: action {actions_TA[step, dim]} at step {step}, dimension {dim}; expected finite numbers"
        )
    largest = float(np.abs(actions_TA).max())
    if largest > 1 + RANGE_TOLERANCE:
        raise DemonstrationError(f"{where}: an action of size {largest:g}; the environment's actions lie in [-1, 1]")


def _language(data: h5py.Group, path: Path) -> str:
    """The instruction from LIBERO's ``problem_info`` JSON, else spelled from the file name ``<task>_demo.hdf5``."""
    info = data.attrs.get("problem_info")
    if info is not None:
        try:
            language = json.loads(info).get("language_instruction", "")
        except json.JSONDecodeError as error:
            raise DemonstrationError(f"{path}: attribute problem_info is not JSON ({error})") from error
        text = "".join(language) if isinstance(language, list) else str(language)
        if text.strip():
            return text.strip().strip('"').strip()
    return re.sub(r"_demo$", "", path.stem).replace("_", " ")
