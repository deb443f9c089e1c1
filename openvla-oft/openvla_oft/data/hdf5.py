"""Reader of LIBERO's HDF5 demonstrations: one file per task, ``data/demo_<i>/{obs/agentview_rgb, actions, ...}``.

Shapes: T steps of one demonstration, N cameras, H x W pixels, C colour channels, A = 7 action dimensions.

Orientation. LIBERO stores images as the simulator's OpenGL buffer gives them; the policy sees them rotated by 180
degrees (both image axes reversed), as OpenVLA's data preparation and its LIBERO evaluation do. The reader rotates.
"""

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from libero_runtime.render.cameras import turned
from libero_runtime.suites import STANDARD_SUITES, instruction, language_of
from openvla_oft.data.demonstration import (
    ACTION_DIM,
    Demo,
    DemoInfo,
    DemonstrationError,
    ReadOptions,
    check_actions,
    checked_proprio,
    is_data,
    kept_steps,
)
from openvla_oft.data.images import prepare_images

ACTION_KEY = "actions"
CAMERA_KEYS = {"agentview": "agentview_rgb", "eye_in_hand": "eye_in_hand_rgb"}
"""Camera name on the command line -> dataset under ``obs`` in LIBERO's layout."""
PROPRIO_KEYS = ("ee_states", "gripper_states")
"""Datasets under ``obs``: position and axis-angle of the end effector, finger positions."""
_READ_AT_ONCE = 8


def find_files(folder: Path, suite: str) -> list[Path]:
    """The suite's files, sorted by name: ``folder/<suite>/*.hdf5`` where that folder exists, else ``folder/*.hdf5``."""
    inner = folder / suite
    return sorted(path for path in (inner if inner.is_dir() else folder).glob("*.hdf5") if is_data(path))


def scan(files: Sequence[Path], options: ReadOptions | None = None) -> list[DemoInfo]:
    """List every demonstration of the files and check layout and shapes without reading images."""
    infos: list[DemoInfo] = []
    for path in files:
        with _readable(str(path)), h5py.File(path, "r") as file:
            infos += _scan_file(file, path, options or ReadOptions())
    return infos


def read_demo(info: DemoInfo, options: ReadOptions) -> Demo:
    """Read one demonstration, check its numbers, rotate its images by 180 degrees and resize them."""
    where = f"{info.path}, {info.name}"
    with _readable(where), h5py.File(info.path, "r") as file:
        group = file["data"][info.name]
        actions_TA = np.asarray(group[ACTION_KEY][()], dtype=np.float32)
        check_actions(actions_TA, where=where)
        kept_T = kept_steps(actions_TA, drop_noops=options.drop_noops, where=where)
        parts = [group["obs"][key][()] for key in PROPRIO_KEYS] if options.proprio else []
        proprio_TP = checked_proprio(parts, len(kept_T), where=where)[kept_T] if options.proprio else None
        images = [_read_images(group["obs"][CAMERA_KEYS[camera]], kept_T, options) for camera in options.cameras]
    return Demo(images[0][:, None] if len(images) == 1 else np.stack(images, axis=1), actions_TA[kept_T], proprio_TP)


@contextmanager
def _readable(where: str) -> Iterator[None]:
    """Explain what HDF5 says of a damaged file; one that may not be read is not damaged."""
    try:
        yield
    except PermissionError:
        raise
    except (OSError, RuntimeError) as error:
        raise DemonstrationError(
            f"{where} cannot be read as HDF5 ({error}): the file is cut off or corrupt; make the demonstrations again"
        ) from error


def _read_images(stored: h5py.Dataset, kept_T: NDArray[np.bool_], options: ReadOptions) -> NDArray[np.uint8]:
    """Kept images (T, H, W, C), turned and resized a few at a time: together they would be 100 MB and more."""
    size = options.image_size or stored.shape[1]
    images_THWC = np.empty((int(kept_T.sum()), size, size, stored.shape[3]), dtype=np.uint8)
    done = 0
    for start in range(0, len(kept_T), _READ_AT_ONCE):
        kept_B = kept_T[start : start + _READ_AT_ONCE]
        if kept_B.any():
            block_BHWC = stored[start : start + _READ_AT_ONCE][kept_B]
            images_THWC[done : done + len(block_BHWC)] = prepare_images(
                turned(block_BHWC), image_size=size, pictures=options.pictures
            )
            done += len(block_BHWC)
    return images_THWC


def _scan_file(file: h5py.File, path: Path, options: ReadOptions) -> list[DemoInfo]:
    data = file.get("data")
    if not isinstance(data, h5py.Group):
        raise DemonstrationError(f"{path} has no group 'data'; expected LIBERO's layout data/demo_<i>/...")
    names = sorted((name for name in data if re.fullmatch(r"demo_\d+", name)), key=lambda name: int(name[5:]))
    if not names:
        raise DemonstrationError(f"{path} holds no demonstration (data/demo_<i>); its groups are {sorted(data)[:5]}")
    language, suite = _language(data, path), _suite(data)
    infos = []
    for name in names:
        num_steps = _check_shapes(data[name], options, where=f"{path}, {name}")
        if options.drop_noops:
            actions_TA = np.asarray(data[name][ACTION_KEY][()], dtype=np.float32)
            num_steps = int(kept_steps(actions_TA, drop_noops=True, where=f"{path}, {name}").sum())
        infos.append(DemoInfo(path=path, name=name, language=language, num_steps=num_steps, suite=suite))
    return infos


def _check_shapes(group: h5py.Group, options: ReadOptions, *, where: str) -> int:
    """Raise unless actions are (T, 7) and every camera is (T, H, H, 3) uint8; return T."""
    actions = _dataset(group, ACTION_KEY, where=where)
    shape = actions.shape
    if len(shape) != 2 or shape[1] != ACTION_DIM or shape[0] < 1:
        raise DemonstrationError(f"{where}: {ACTION_KEY} is {shape}, expected (T >= 1, {ACTION_DIM})")
    for camera in options.cameras:
        key = f"obs/{CAMERA_KEYS[camera]}"
        images = _dataset(group, key, where=where, what=f" for camera {camera!r}")
        square = len(images.shape) == 4 and images.shape[1] == images.shape[2] and images.shape[3] == 3
        if not square or images.shape[0] != shape[0] or images.dtype != np.uint8:
            raise DemonstrationError(
                f"{where}: {key} is {images.dtype} {images.shape}, expected uint8 ({shape[0]}, H, H, 3): "
                f"one square image per action"
            )
    for name in PROPRIO_KEYS if options.proprio else ():
        _dataset(group, f"obs/{name}", where=where, what=" for proprioception")
    return int(shape[0])


def _dataset(group: h5py.Group, key: str, *, where: str, what: str = "") -> h5py.Dataset:
    found = group.get(key)
    if isinstance(found, h5py.Dataset):
        return found
    raise DemonstrationError(f"{where}: no dataset {key}{what}; present: {sorted(group)}")


def _suite(data: h5py.Group) -> str | None:
    """LIBERO's suite by the path of its task description (``bddl_file_name``), where that or ``env_name`` says it."""
    for name in ("bddl_file_name", "env_name"):
        stated = data.attrs.get(name)
        if isinstance(stated, str):
            found = [part for part in stated.split("/") if part in STANDARD_SUITES]
            if found:
                return found[-1]
    return None


def _language(data: h5py.Group, path: Path) -> str:
    """The words that rollouts use: of the task that LIBERO's ``problem_info`` JSON states, else of the one that the
    file ``<task>_demo.hdf5`` or its task description is named after. Instructions that are not LIBERO's are kept."""
    stated = _stated_language(data, path)
    if stated:
        return instruction(stated) or stated
    name = path.stem.removesuffix("_demo")
    described = data.attrs.get("bddl_file_name")
    other = Path(described).stem if isinstance(described, str) else ""
    return instruction(name) or instruction(other) or language_of(name)


def _stated_language(data: h5py.Group, path: Path) -> str:
    """The instruction in the attribute ``problem_info``; empty without one, as in files that OpenVLA's script wrote."""
    info = data.attrs.get("problem_info")
    if info is None:
        return ""
    try:
        stated = json.loads(info).get("language_instruction", "")
        text = "".join(stated if isinstance(stated, list) else [stated])
    except (ValueError, TypeError, AttributeError) as error:
        raise DemonstrationError(
            f"{path}: attribute problem_info is {str(info)[:100]!r}, expected a JSON object with a language_instruction"
        ) from error
    return text.strip().strip('"').strip()
