"""Writes small HDF5 files in LIBERO's layout for the tests of the supervised trainer."""

import json

import h5py
import numpy as np

from openvla_oft.data import dataset
from openvla_oft.data.demonstration import DataOptions

LANGUAGES = (
    "pick up the black bowl on the stove and place it on the plate",
    "pick up the black bowl next to the plate and place it on the plate",
)


def write_file(path, *, language, num_demos, num_steps, seed=0, size=32, actions=None, suite=None):
    """One task's file; pictures are noise, actions random with a gripper that closes half-way."""
    generator = np.random.default_rng(seed)
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["problem_info"] = json.dumps({"language_instruction": language})
        if suite is not None:
            data.attrs["bddl_file_name"] = f"chiliocosm/bddl_files/{suite}/task.bddl"
        for index in range(num_demos):
            group = data.create_group(f"demo_{index}")
            if actions is None:
                values = generator.uniform(-1, 1, (num_steps, 7))
                values[:, 6] = np.where(np.arange(num_steps) < num_steps / 2, -1, 1)
            else:
                values = actions
            pictures = generator.integers(0, 256, (len(values), size, size, 3), dtype=np.uint8)
            group.create_dataset("actions", data=values)
            group.create_dataset("obs/agentview_rgb", data=pictures)
            group.create_dataset("obs/eye_in_hand_rgb", data=255 - pictures)
            felt = generator.normal(size=(len(values), 8))
            group.create_dataset("obs/ee_states", data=felt[:, :6])
            group.create_dataset("obs/gripper_states", data=felt[:, 6:])
    return path


def write_suite(folder, *, num_demos=3, num_steps=10, size=32):
    """Two tasks under ``folder/libero_spatial``."""
    for index, language in enumerate(LANGUAGES):
        path = folder / "libero_spatial" / f"task_{index}_demo.hdf5"
        write_file(path, language=language, num_demos=num_demos, num_steps=num_steps, seed=index, size=size)
    return folder


def reading(folder, **options):
    """Options that read a folder in this process."""
    return DataOptions(**{"demonstrations": folder, "num_workers": 0, **options})


def load(folder, **options):
    """What the trainer reads of a folder."""
    return dataset.load(reading(folder, **options))
