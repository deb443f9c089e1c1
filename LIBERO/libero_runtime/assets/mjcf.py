"""How MJCF writes numbers and shapes."""

from __future__ import annotations

from collections.abc import Iterable

from libero_runtime.assets.shapes import Primitive, Vector


def numbers(values: Iterable[float] | Vector) -> str:
    """Numbers as MJCF attributes write them."""
    return " ".join(f"{value:.6g}" for value in values)


def primitive_attributes(primitive: Primitive) -> dict[str, str]:
    """Shape and pose of a geom."""
    return {
        "type": primitive.kind,
        "pos": numbers(primitive.pos),
        "quat": numbers(primitive.quat),
        "size": numbers(primitive.size),
    }
