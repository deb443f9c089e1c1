"""Reads RLDS demonstrations of LIBERO (openvla/modified_libero_rlds) without TensorFlow.

A shard is a TFRecord file: per record the length (uint64), a checksum, a serialized ``tf.train.Example``, a checksum.
An example is one episode, its steps laid end to end under keys such as ``steps/action``. Pictures are encoded (JPEG or
PNG), upright already: the data set's builder rotates them. Actions are the environment's own, gripper -1 open, +1
close (OpenVLA's loader maps that to its own units later).

Shapes: T steps, N pictures per step, A action dimensions.
"""

import io
import mmap
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rlinf.config.errors import UserError

ACTION_DIM = 7
IMAGE_KEYS = ("steps/observation/image", "steps/observation/wrist_image")
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


class RldsError(UserError):
    """A shard that is cut off, or no RLDS of LIBERO; the message names it."""


@dataclass(frozen=True)
class EpisodeHeader:
    """An episode of a shard: its position, instruction and length."""

    path: Path
    index: int
    language: str
    num_steps: int


@dataclass(frozen=True)
class Episode:
    """images_TNHWC: uint8, upright; actions_TA: float32 of the environment."""

    images_TNHWC: NDArray[np.uint8]
    actions_TA: NDArray[np.float32]


def is_shard(path: Path) -> bool:
    """Whether a file is named like a TFRecord shard."""
    return ".tfrecord" in path.name


def find_shards(folder: Path, suite: str) -> list[Path]:
    """Shards of a suite: below ``folder/<suite>_no_noops`` or ``folder/<suite>``, else in ``folder`` itself."""
    for inner in (folder / f"{suite}_no_noops", folder / suite):
        found = sorted(path for path in inner.rglob("*.tfrecord*") if path.is_file())
        if found:
            return found
    return sorted(path for path in folder.glob("*.tfrecord*") if path.is_file())


def scan(shards: Sequence[Path]) -> Iterator[EpisodeHeader]:
    """Every episode of the shards; pictures are not touched."""
    for path in shards:
        for index, record in enumerate(_records(path)):
            features = _features(record, path, index)
            language = next(_bytes_list(_required(features, "steps/language_instruction", path, index))).decode()
            num_steps = len(_floats(_required(features, "steps/action", path, index))) // ACTION_DIM
            yield EpisodeHeader(path, index, language.strip(), num_steps)


def read_episode(path: Path, index: int, *, num_images: int) -> Episode:
    """Pictures and actions of one episode."""
    from PIL import Image

    record = next(islice(_records(path), index, None), None)
    if record is None:
        raise RldsError(f"{path} has no episode {index}")
    features = _features(record, path, index)
    actions_TA = _floats(_required(features, "steps/action", path, index)).reshape(-1, ACTION_DIM)
    cameras = [
        np.stack([np.asarray(Image.open(io.BytesIO(data)).convert("RGB")) for data in _bytes_list(feature)])
        for feature in (_required(features, key, path, index) for key in IMAGE_KEYS[:num_images])
    ]
    if any(len(pictures) != len(actions_TA) for pictures in cameras):
        raise RldsError(f"{path}, episode {index}: {len(actions_TA)} actions, pictures {[len(p) for p in cameras]}")
    return Episode(np.stack(cameras, axis=1), actions_TA)


def _records(path: Path) -> Iterator[memoryview]:
    """Views of the mapped file, which is closed with the last of them: pictures that nobody looks at are not read."""
    if path.stat().st_size == 0:
        return
    with path.open("rb") as file:
        mapped = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
    position = 0
    while position < len(mapped):
        if position + 12 > len(mapped):
            raise RldsError(f"{path} is cut off at byte {position}: download it again")
        (length,) = struct.unpack_from("<Q", mapped, position)
        start, position = position + 12, position + length + 16
        if position > len(mapped):
            raise RldsError(f"{path} is cut off, or no TFRecord: the record at byte {start} has {length} bytes")
        yield mapped[start : start + length]


def _features(record: memoryview, path: Path, index: int) -> dict[str, memoryview]:
    """Features of a ``tf.train.Example`` by key, still serialized."""
    found = {}
    try:
        for _, features in _fields(record):
            for _, entry in _fields(features):
                key, value = (part for _, part in _fields(entry))
                found[bytes(key).decode()] = value
    except (IndexError, ValueError) as error:
        raise RldsError(f"{path}, record {index} is not a tf.train.Example ({error})") from error
    return found


def _required(features: dict[str, memoryview], key: str, path: Path, index: int) -> memoryview:
    if key not in features:
        raise RldsError(f"{path}, episode {index} has no {key}; its keys: {sorted(features)}")
    return features[key]


def _bytes_list(feature: memoryview) -> Iterator[bytes]:
    for _, values in _fields(feature):
        yield from (bytes(value) for _, value in _fields(values))


def _floats(feature: memoryview) -> NDArray[np.float32]:
    """A float list, packed or not: either way its parts join to little-endian float32."""
    parts = [bytes(part) for _, values in _fields(feature) for _, part in _fields(values)]
    return np.frombuffer(b"".join(parts), "<f4").astype(np.float32)


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Number and payload of each field of a protobuf message; payloads of varints are empty, nothing here reads any."""
    position = 0
    while position < len(message):
        tag, position = _varint(message, position)
        kind, length = tag & 7, 0
        if kind == _VARINT:
            _, position = _varint(message, position)
        elif kind == _BYTES:
            length, position = _varint(message, position)
        elif kind in (_FIXED64, _FIXED32):
            length = 8 if kind == _FIXED64 else 4
        else:
            raise ValueError(f"wire type {kind}")
        if position + length > len(message):
            raise ValueError("a field is cut off")
        yield tag >> 3, message[position : position + length]
        position += length


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[position]
        value |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            return value, position
