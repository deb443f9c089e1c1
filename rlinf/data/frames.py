"""Images of a collection that lie in several arrays."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import DTypeLike, NDArray

from rlinf.data.shapes import check_array


@dataclass(frozen=True)
class JoinedFrames:
    """Arrays of images, one after another, that stay where they are: indexing copies the chosen images only.

    The images of a published epoch are 10 GB in memory that all processes of a machine share. Concatenating them would
    give every process a copy of its own.

    parts: uint8 of shape (any, N, H, W, 3), with the same N, H and W.
    """

    parts: tuple[NDArray[np.uint8], ...]

    def __post_init__(self) -> None:
        for index, part in enumerate(self.parts):
            check_array(f"parts[{index}]", part, (None, *self.parts[0].shape[1:]), np.uint8)

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self), *self.parts[0].shape[1:])

    @property
    def dtype(self) -> np.dtype[np.uint8]:
        return self.parts[0].dtype

    def __getitem__(self, samples_S: NDArray[np.int64]) -> NDArray[np.uint8]:
        """A copy of the images at these positions, in that order; they are not counted from the end."""
        ends = np.cumsum([len(part) for part in self.parts])
        chosen = np.empty((len(samples_S), *self.shape[1:]), np.uint8)
        owners = np.searchsorted(ends, samples_S, side="right")
        for row, (position, owner) in enumerate(zip(samples_S, owners, strict=True)):
            chosen[row] = self.parts[owner][position - ends[owner]]  # negative: counted from the part's end
        return chosen

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[np.uint8]:
        """All images in one array (``np.asarray``), which is a copy."""
        return np.concatenate(self.parts).astype(dtype or np.uint8, copy=False)
