"""Off-screen camera images straight from MuJoCo, one GL context per process.

B environments, N cameras, H and W pixels, C colours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import mujoco
import numpy as np
from numpy.typing import NDArray

from libero_runtime.opengl import select_opengl

Look = Literal["fast", "official"]
LOOKS: tuple[str, ...] = get_args(Look)
_COLLISION_GROUP, _VISUAL_GROUP = 0, 1
_MAX_GEOMS = 1000  # as robosuite's renderer; LIBERO scenes have about 250
_gl_context: Any = None  # mujoco's GLContext of the selected platform: shared by every scene of this process


def _make_gl_current() -> None:
    """Create this process's GL context once, and make it current in the calling thread."""
    global _gl_context
    if _gl_context is None:
        if select_opengl() == "egl":
            from mujoco.egl import GLContext
        else:
            from mujoco.osmesa import GLContext
        _gl_context = GLContext(16, 16)  # scenes draw into their own framebuffers: the window size does not matter
    _gl_context.make_current()


class SceneRenderer:
    """Renders the named cameras of one compiled model.

    `look="official"` gives the pixels of stock LIBERO; `look="fast"` leaves out multisampling, reflections and the
    shadow map (no light in LIBERO casts shadows), and goes with a coarser robot (`robot_meshes`).
    """

    def __init__(self, model: mujoco.MjModel, *, cameras: Sequence[str], image_size: int, look: Look) -> None:
        self.image_size = image_size
        self._model = model
        self._camera_ids = [self._camera_id(name) for name in cameras]
        _make_gl_current()
        self._context = self._make_context(look)
        self._scene = mujoco.MjvScene(model, maxgeom=_MAX_GEOMS)
        if look == "fast":
            self._scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = 0
            self._scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = 0
        self._options = mujoco.MjvOption()
        self._options.geomgroup[_COLLISION_GROUP] = 0
        self._options.geomgroup[_VISUAL_GROUP] = 1
        self._perturbation = mujoco.MjvPerturb()
        self._camera = mujoco.MjvCamera()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
        self._viewport = mujoco.MjrRect(0, 0, image_size, image_size)
        self._pixels_HWC = np.empty((image_size, image_size, 3), dtype=np.uint8)

    def _make_context(self, look: Look) -> mujoco.MjrContext:
        """Upload the model; its quality settings are read here only, and are left as they were."""
        quality, window = self._model.vis.quality, self._model.vis.global_
        before = quality.offsamples, quality.shadowsize, window.offwidth, window.offheight
        if look == "fast":
            quality.offsamples = quality.shadowsize = 0
        window.offwidth = window.offheight = self.image_size
        context = mujoco.MjrContext(self._model, mujoco.mjtFontScale.mjFONTSCALE_50)
        quality.offsamples, quality.shadowsize, window.offwidth, window.offheight = before
        return context

    def _camera_id(self, name: str) -> int:
        camera_id = mujoco.mj_name2id(self._model, mujoco.mjtObj.mjOBJ_CAMERA, name)
        if camera_id < 0:
            known = [self._model.camera(i).name for i in range(self._model.ncam)]
            raise ValueError(f"unknown camera {name!r}: this scene has {', '.join(known)}")
        return int(camera_id)

    @property
    def num_cameras(self) -> int:
        return len(self._camera_ids)

    def render(self, data: mujoco.MjData, out_NHWC: NDArray[np.uint8]) -> None:
        """Draw the first `len(out_NHWC)` cameras into `out_NHWC`, rotated by 180 degrees.

        Uses the geometry as it stands in `data`: call right after stepping.
        """
        _make_gl_current()
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
        for out_HWC, camera_id in zip(out_NHWC, self._camera_ids, strict=False):
            self._camera.fixedcamid = camera_id
            mujoco.mjv_updateScene(
                self._model, data, self._options, self._perturbation, self._camera, mujoco.mjtCatBit.mjCAT_ALL,
                self._scene,
            )
            mujoco.mjr_render(self._viewport, self._scene, self._context)
            mujoco.mjr_readPixels(self._pixels_HWC, None, self._viewport, self._context)
            # OpenGL's rows run bottom-up, so reversing the columns alone would mirror; reversing both rotates stock's
            # (unflipped) image by 180 degrees.
            out_HWC[:] = self._pixels_HWC[::-1, ::-1]

    def close(self) -> None:
        """Free the GPU (or software) copies of meshes and textures."""
        _make_gl_current()
        self._context.free()
