"""TFRecord files, and the ``tf.train.Example`` that each record of an RLDS shard is, without TensorFlow.

A record is its length (uint64) and that number's checksum, the data and the data's checksum. Examples are protobuf
messages, read as views: nothing is copied before it is asked for.
"""

import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from openvla_oft.data.demonstration import DemonstrationError

_HEAD = struct.Struct("<QI")
_FOOT = struct.Struct("<I")
_LFS_POINTER = b"version https://git-lfs"
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MAX_VARINT_BITS = 63


@dataclass(frozen=True)
class Record:
    """One record: a view of the mapped file, its checksum not yet compared, so that skipped records are not read."""

    path: Path
    index: int
    offset: int
    """First byte of the record, its length field included."""
    data: memoryview
    checksum: int
    """As stored, masked."""

    @property
    def where(self) -> str:
        """File, record and byte, for messages."""
        return f"{self.path}, record {self.index} at byte {self.offset}"

    def check(self) -> None:
        """Raise unless the data has its stored checksum."""
        found = masked_crc32c(bytes(self.data))
        if found != self.checksum:
            raise DemonstrationError(
                f"{self.where}: the data of {len(self.data)} bytes is corrupt (checksum {found:#010x}, "
                f"expected {self.checksum:#010x}); download the file again"
            )


def masked_crc32c(data: bytes) -> int:
    """The checksum (Castagnoli's CRC-32) as TFRecord stores it: rotated and offset."""
    value = int(google_crc32c.value(data))
    return ((value >> 15 | value << 17) + 0xA282EAD8) & 0xFFFFFFFF


def records(path: Path) -> Iterator[Record]:
    """The records of a file in order; the checksums of their lengths are compared."""
    mapped = _map(path)
    index = position = 0
    while position < len(mapped):
        record = _record_at(mapped, path, index, position)
        yield record
        index, position = index + 1, position + _HEAD.size + len(record.data) + _FOOT.size


def read_record(path: Path, *, index: int, offset: int) -> Record:
    """The record that ``records`` met at this place, with its checksum compared."""
    record = _record_at(_map(path), path, index, offset)
    record.check()
    return record


def _map(path: Path) -> mmap.mmap:
    """The whole file, paged in as it is looked at."""
    with path.open("rb") as file:
        if path.stat().st_size == 0:  # which cannot be mapped
            raise DemonstrationError(f"{path} is empty; download it again")
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    if mapped[: len(_LFS_POINTER)] == _LFS_POINTER:
        raise DemonstrationError(f"{path} is a Git LFS pointer, not the data; download it with `hf download`")
    return mapped


def _record_at(mapped: mmap.mmap, path: Path, index: int, offset: int) -> Record:
    where = f"{path}, record {index} at byte {offset}"
    rest = len(mapped) - offset
    if rest < _HEAD.size:
        raise DemonstrationError(f"{where}: the file is cut off, {rest} bytes are left; download it again")
    length, stored = _HEAD.unpack_from(mapped, offset)
    if masked_crc32c(mapped[offset : offset + 8]) != stored:
        raise DemonstrationError(f"{where}: its length has a wrong checksum: the file is corrupt or no TFRecord")
    if rest < _HEAD.size + length + _FOOT.size:
        raise DemonstrationError(
            f"{where}: the file is cut off, the record has {length} bytes and {rest - _HEAD.size} are left; "
            f"download it again"
        )
    start = offset + _HEAD.size
    (checksum,) = _FOOT.unpack_from(mapped, start + length)
    return Record(path, index, offset, memoryview(mapped)[start : start + length], checksum)


def features_of(example: memoryview) -> dict[str, memoryview]:
    """Features by key, still serialized.

    Raises:
        ValueError: this is no such message.
    """
    found = {}
    for _, features in _fields(example):
        for _, entry in _fields(features):
            parts = dict(_fields(entry))
            if parts.keys() != {1, 2}:
                raise ValueError(f"an entry with the fields {sorted(parts)} instead of a key and a feature")
            found[bytes(parts[1]).decode()] = parts[2]
    if not found:
        raise ValueError("it has no features")
    return found


def bytes_list(feature: memoryview) -> Iterator[bytes]:
    """Strings of a feature."""
    for _, values in _fields(feature):
        yield from (bytes(value) for _, value in _fields(values))


def float_list(feature: memoryview) -> NDArray[np.float32]:
    """Numbers of a feature, packed or not: either way its parts join to little-endian float32."""
    data = b"".join(bytes(part) for _, values in _fields(feature) for _, part in _fields(values))
    return np.frombuffer(data[: len(data) // 4 * 4], "<f4").astype(np.float32)


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Number and payload of each field; payloads of varints are empty, nothing here reads any."""
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
        if position >= len(message) or shift > _MAX_VARINT_BITS:
            raise ValueError("a number is cut off")
        byte = message[position]
        value |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            return value, position
