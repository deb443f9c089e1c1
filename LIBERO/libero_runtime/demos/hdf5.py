"""LIBERO's demonstration files: one HDF5 per task, `<task name>_demo.hdf5`, with a group `data/demo_<i>` per episode.

As in the stock files, images are stored as OpenGL delivers them: rotated by 180 degrees from what policies are given
(readers of LIBERO data turn them). Unlike there, an observation is the one before the action of the same index.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from libero_runtime.demos.episodes import AttemptPlan, Demonstration
from libero_runtime.render.cameras import demonstrated_name, turned
from libero_runtime.sim.state import Pose
from libero_runtime.suites import TaskSpec

COMPRESSIONS = ("none", "lzf", "gzip")


def camera_key(camera: str) -> str:
    """Name of a camera's dataset in the file."""
    return f"{demonstrated_name(camera)}_rgb"


def demonstration_file(folder: Path, task: TaskSpec) -> Path:
    """Where the demonstrations of a task are."""
    return folder / f"{task.name}_demo.hdf5"


def quaternions(rotvecs_T3: NDArray[np.float32]) -> NDArray[np.float32]:
    """Quaternions (T, 4) in the order x, y, z, w of rotation vectors."""
    angles_T1 = np.linalg.norm(rotvecs_T3, axis=1, keepdims=True)
    axes_T3 = rotvecs_T3 / np.maximum(angles_T1, 1e-9)
    return np.concatenate([axes_T3 * np.sin(angles_T1 / 2), np.cos(angles_T1 / 2)], axis=1).astype(np.float32)


def write_shard(
    path: Path,
    demo: Demonstration,
    plan: AttemptPlan,
    *,
    draw: Callable[[Pose], NDArray[np.uint8]],
    cameras: Sequence[str],
    compression: str,
) -> None:
    """Write one episode as a file of its own, whose group `demo` is later copied as it is.

    `draw` answers with images (N, H, W, 3), one per camera, as policies see them.
    """
    proprio = demo.proprio_TP
    num_steps = len(demo.actions_TA)
    last = np.zeros(num_steps, dtype=np.uint8)
    last[-1] = 1
    with h5py.File(path, "w") as file:
        group = file.create_group("demo")
        group.attrs["num_samples"] = num_steps
        group.attrs["init_state"] = demo.states_TS[0]
        group.attrs["init_index"] = plan.init_index
        group.attrs["seed"] = plan.seed
        group["actions"] = demo.actions_TA
        group["states"] = demo.states_TS
        group["robot_states"] = np.concatenate([proprio[:, 6:8], proprio[:, :3], quaternions(proprio[:, 3:6])], axis=1)
        group["rewards"] = last
        group["dones"] = last
        obs = group.create_group("obs")
        obs["ee_pos"] = proprio[:, :3]
        obs["ee_ori"] = proprio[:, 3:6]
        obs["ee_states"] = proprio[:, :6]
        obs["gripper_states"] = proprio[:, 6:8]
        obs["joint_states"] = demo.joints_TJ
        _write_images(obs, demo.poses, draw=draw, cameras=cameras, compression=compression)


def _write_images(
    obs: h5py.Group,
    poses: Sequence[Pose],
    *,
    draw: Callable[[Pose], NDArray[np.uint8]],
    cameras: Sequence[str],
    compression: str,
) -> None:
    """Draw every pose and store its images at once: an episode's images together would be 100 MB."""
    datasets: list[h5py.Dataset] = []
    for step, pose in enumerate(poses):
        stored_NHWC = turned(draw(pose))
        if not datasets:
            datasets = [
                obs.create_dataset(
                    camera_key(camera),
                    shape=(len(poses), *image_HWC.shape),
                    dtype=np.uint8,
                    chunks=(1, *image_HWC.shape),
                    compression=None if compression == "none" else compression,
                    compression_opts=1 if compression == "gzip" else None,
                )
                for camera, image_HWC in zip(cameras, stored_NHWC, strict=True)
            ]
        for dataset, image_HWC in zip(datasets, stored_NHWC, strict=True):
            dataset[step] = image_HWC


def write_file(
    target: Path, shards: Sequence[Path], task: TaskSpec, *, cameras: Sequence[str], image_size: int, options: str
) -> None:
    """Make a task's file of its episodes'; it has its name when it is whole.

    `options` describes the run that made the demonstrations (JSON) and is kept in the file.
    """
    partial = target.with_name(f".{target.name}.partial")
    with h5py.File(partial, "w") as file:
        data = file.create_group("data")
        for index, shard in enumerate(shards):
            with h5py.File(shard, "r") as source:
                source.copy("demo", data, name=f"demo_{index}")
        env_kwargs = {
            "robots": ["Panda"],
            "controller": "OSC_POSE",
            "control_freq": 20,
            "camera_names": list(cameras),
            "camera_heights": image_size,
            "camera_widths": image_size,
        }
        data.attrs["env_args"] = json.dumps(
            {"type": 1, "env_name": task.suite, "bddl_file": task.bddl_path.name, "env_kwargs": env_kwargs}
        )
        data.attrs["problem_info"] = json.dumps(
            {"problem_name": task.name, "domain_name": "robosuite", "language_instruction": task.language}
        )
        data.attrs["env_name"] = task.suite
        data.attrs["bddl_file_name"] = f"{task.suite}/{task.bddl_path.name}"
        data.attrs["macros_image_convention"] = "opengl"
        data.attrs["num_demos"] = len(data)
        data.attrs["total"] = sum(int(demo.attrs["num_samples"]) for demo in data.values())
        data.attrs["tag"] = "scripted-expert-v1"
        data.attrs["options"] = options
    partial.replace(target)


def episode_lengths(path: Path) -> tuple[int, ...]:
    """Steps of each demonstration of a task's file."""
    with h5py.File(path, "r") as file:
        data = file["data"]
        return tuple(int(data[f"demo_{index}"].attrs["num_samples"]) for index in range(int(data.attrs["num_demos"])))
