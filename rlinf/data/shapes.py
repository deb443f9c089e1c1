"""The one shape check that every data class uses."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike


class Shaped(Protocol):
    """An array, or what can be indexed like one."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype[Any]: ...


def check_array(name: str, array: Shaped, shape: Sequence[int | None], dtype: DTypeLike) -> None:
    """Raise ``ValueError`` unless ``array`` has ``dtype`` and ``shape``; ``None`` in ``shape`` accepts any size."""
    fits = len(array.shape) == len(shape) and all(
        want is None or have == want for have, want in zip(array.shape, shape, strict=True)
    )
    if not fits or array.dtype != np.dtype(dtype):
        wanted = "(" + ", ".join("any" if size is None else str(size) for size in shape) + ")"
        raise ValueError(f"{name} must be {np.dtype(dtype).name} of shape {wanted}, got {array.dtype} {array.shape}")
