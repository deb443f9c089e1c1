"""Small demonstration files of LIBERO-Spatial for the tests of replay: HDF5 as LIBERO writes them, and RLDS."""

import io
import struct

import numpy as np
from PIL import Image

from libero_runtime.suites import load_suite
from tests.unit.finetuning.sft_demos import write_file

SUITE = "libero_spatial"


def task_names():
    """Names of the suite's tasks, in order."""
    return [task.name for task in load_suite(SUITE).tasks]


def write_hdf5(folder, *, task_ids, num_demos=2, num_steps=6, size=48):
    """One file per task under ``folder/libero_spatial``."""
    for task in (load_suite(SUITE).task(task_id) for task_id in task_ids):
        path = folder / SUITE / f"{task.name}_demo.hdf5"
        write_file(path, language=task.language, num_demos=num_demos, num_steps=num_steps, seed=task.task_id, size=size)
    return folder


def write_rlds(path, *, task_ids, num_steps=5, size=48, change=None):
    """One TFRecord shard with an episode per task; returns its episodes' pictures and actions.

    change: makes other features out of each episode's.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    episodes = []
    records = b""
    for task_id in task_ids:
        rng = np.random.default_rng(task_id)
        images = rng.integers(0, 256, (num_steps, size, size, 3), dtype=np.uint8)
        actions = rng.uniform(-1, 1, (num_steps, 7)).astype(np.float32)
        language = load_suite(SUITE).task(task_id).language
        features = {
            "steps/action": feature(2, field(1, actions.tobytes())),
            "steps/is_first": feature(3, field(1, bytes(num_steps))),
            "steps/observation/image": feature(1, b"".join(field(1, png(image)) for image in images)),
            "steps/observation/wrist_image": feature(1, b"".join(field(1, png(255 - image)) for image in images)),
            "steps/language_instruction": feature(1, field(1, language.encode()) * num_steps),
        }
        records += record(_example(change(features) if change else features))
        episodes.append((images, actions))
    path.write_bytes(records)
    return episodes


def record(data):
    """A TFRecord."""
    length = struct.pack("<Q", len(data))
    return length + _checksum(length) + data + _checksum(data)


def _checksum(data):
    """CRC-32C as its definition has it, bit by bit, then masked."""
    register = 0xFFFFFFFF
    for byte in data:
        register ^= byte
        for _ in range(8):
            register = register >> 1 ^ (0x82F63B78 if register & 1 else 0)
    register ^= 0xFFFFFFFF
    return struct.pack("<I", ((register >> 15 | register << 17) + 0xA282EAD8) & 0xFFFFFFFF)


def png(image):
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "PNG")
    return stream.getvalue()


def _varint(value):
    out = b""
    while value >= 0x80:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def field(number, payload):
    return _varint(number << 3 | 2) + _varint(len(payload)) + payload


def feature(kind, values):
    """A feature: a list of bytes (1), floats (2) or integers (3)."""
    return field(kind, values)


def _example(features):
    entries = b"".join(field(1, field(1, key.encode()) + field(2, value)) for key, value in features.items())
    return field(1, entries)
