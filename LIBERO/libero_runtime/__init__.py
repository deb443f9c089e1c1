"""Fast LIBERO on MuJoCo: many episodes per compiled scene, rendered only when a policy observes."""

import ctypes
import importlib.util
import sys
from pathlib import Path


def _keep_no_decoded_files() -> None:
    """Keep MuJoCo from keeping what it decodes of textures and meshes: 70 MB for a first scene, 20 more with each."""
    package = importlib.util.find_spec("mujoco")
    if package is not None and package.origin is not None:
        simulator = ctypes.CDLL(str(next(Path(package.origin).parent.glob("libmujoco.*"))))
        simulator.mj_globalCache.restype = ctypes.c_void_p
        simulator.mj_setCacheSize(ctypes.c_void_p(simulator.mj_globalCache()), ctypes.c_size_t(0))


# MuJoCo 3.3.2 loops for ever when the limit of a cache that was read from is lowered (its commit 8cbfc42 mended that):
# only where nobody can have compiled a model yet.
if "mujoco" not in sys.modules:
    _keep_no_decoded_files()
