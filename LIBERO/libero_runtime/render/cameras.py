"""Cameras: their names, and which way their images lie, in the simulator and in demonstrations."""

import numpy as np
from numpy.typing import NDArray

DEMONSTRATED = {"robot0_eye_in_hand": "eye_in_hand"}
"""The simulator's name -> that of LIBERO's demonstrations, where they differ."""
_SIMULATED = {demonstrated: simulated for simulated, demonstrated in DEMONSTRATED.items()}


def simulated_name(camera: str) -> str:
    """A camera by the simulator's name, whichever is given."""
    return _SIMULATED.get(camera, camera)


def demonstrated_name(camera: str) -> str:
    """A camera by the name that demonstrations have for it, whichever is given."""
    return DEMONSTRATED.get(camera, camera)


def turned(images_NHWC: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Images rotated by 180 degrees: OpenGL's, as demonstrations keep them, to those that policies see, or back."""
    turned_NHWC = np.empty_like(images_NHWC)
    for colour in range(images_NHWC.shape[3]):  # numpy takes four times as long for all colours in one assignment
        turned_NHWC[..., colour] = images_NHWC[:, ::-1, ::-1, colour]
    return turned_NHWC
