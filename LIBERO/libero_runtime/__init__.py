"""Fast LIBERO on MuJoCo: many episodes per compiled scene, rendered only when a policy observes."""

import ctypes
import importlib.util
import sys
from pathlib import Path


def keep_decoded_files(num_bytes: int) -> None:
    """How much MuJoCo may keep of what it decodes of textures and meshes, for scenes that are compiled again.

    MuJoCo 3.3.2 loops for ever when the limit of a cache that was read from is lowered (its commit 8cbfc42 mended
    that): give more than before, unless nobody can have compiled a model yet.
    """
    package = importlib.util.find_spec("mujoco")
    if package is not None and package.origin is not None:
        simulator = ctypes.CDLL(str(next(Path(package.origin).parent.glob("libmujoco.*"))))
        simulator.mj_globalCache.restype = ctypes.c_void_p
        simulator.mj_setCacheSize(ctypes.c_void_p(simulator.mj_globalCache()), ctypes.c_size_t(num_bytes))


if "mujoco" not in sys.modules:
    keep_decoded_files(0)  # 70 MB for a first scene, 20 more with each
