"""``tf.train.Example``, the protobuf message of RLDS records, as views: nothing is copied before it is asked for."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MAX_VARINT_BITS = 63


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
