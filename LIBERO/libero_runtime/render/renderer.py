"""Off-screen camera images straight from MuJoCo, one GL context per process.

B environments, N cameras, H and W pixels, C colours.
"""

import atexit
from collections.abc import Sequence
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from libero_runtime.kernel.native import compiled
from libero_runtime.opengl import select_opengl
from libero_runtime.paths import Quality
from libero_runtime.render.cameras import simulated_name

_COLLISION_GROUP, _VISUAL_GROUP, _HIDDEN_GROUP = 0, 1, 3
# Tables, then walls and floors, are drawn after what stands before them: what they hide behind is not shaded twice.
_LATER_GROUPS = ((0.5, 4), (1.0, 5))  # bounding radius (m) from which a geom belongs to the group
_ROUND_M = 0.01  # a ball's radius from which it needs the renderer's full number of stacks
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
        atexit.register(_gl_context.free)  # later, with modules half gone, its own clean-up fails with a message
    _gl_context.make_current()


@compiled
def _rotate(pixels_HWC: NDArray[np.uint8], out_HWC: NDArray[np.uint8]) -> None:
    """Copy a square image rotated by 180 degrees."""
    size = pixels_HWC.shape[0]
    for row in range(size):
        for column in range(size):
            for colour in range(3):
                out_HWC[size - 1 - row, size - 1 - column, colour] = pixels_HWC[row, column, colour]


class SceneRenderer:
    """Renders the named cameras of one compiled model.

    `quality="official"` gives the pixels of stock LIBERO; `quality="fast"` leaves out multisampling, reflections and
    the shadow map (no light in LIBERO casts shadows), divides cylinders in fewer stacks, and goes with a coarser robot
    (`assets`). It also leaves out geoms outside a camera's view and draws large ones last: no pixel changes by that.
    """

    def __init__(self, model: mujoco.MjModel, *, cameras: Sequence[str], image_size: int, quality: Quality) -> None:
        self.image_size = image_size
        self.num_users = 0  # scenes of this model that draw with it
        self._model = model
        self._culls = quality == "fast"  # with reflections, what is out of view may be seen in a mirror
        self._groups = model.geom_group.copy()
        self._bounds = np.where(model.geom_rbound > 0.0, model.geom_rbound, np.inf)  # planes have none
        self._passes = np.where(self._groups > _HIDDEN_GROUP, _HIDDEN_GROUP, self._groups)
        for radius, group in _LATER_GROUPS:
            self._passes[(self._groups == _VISUAL_GROUP) & (self._bounds >= radius)] = group
        self._camera_ids = [self._camera_id(name) for name in cameras]
        _make_gl_current()
        self._context = self._make_context(quality)
        self._scene = mujoco.MjvScene(model, maxgeom=_MAX_GEOMS)
        if quality == "fast":
            self._scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = 0
            self._scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = 0
        self._options = mujoco.MjvOption()
        self._options.geomgroup[_COLLISION_GROUP] = 0
        self._options.geomgroup[_VISUAL_GROUP] = 1
        self._later = [self._geoms_only(group) for _, group in _LATER_GROUPS] if self._culls else []
        self._perturbation = mujoco.MjvPerturb()
        self._camera = mujoco.MjvCamera()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
        self._viewport = mujoco.MjrRect(0, 0, image_size, image_size)
        self._pixels_HWC = np.empty((image_size, image_size, 3), dtype=np.uint8)

    def _make_context(self, quality: Quality) -> mujoco.MjrContext:
        """Upload the model; its settings are read here only, and are left as they were."""
        settings, window = self._model.vis.quality, self._model.vis.global_
        before = settings.offsamples, settings.shadowsize, window.offwidth, window.offheight
        stacks = settings.numstacks
        if quality == "fast":
            settings.offsamples = settings.shadowsize = 0
            settings.numstacks = min(stacks, self._num_stacks())
        window.offwidth = window.offheight = self.image_size
        context = mujoco.MjrContext(self._model, mujoco.mjtFontScale.mjFONTSCALE_50)
        settings.offsamples, settings.shadowsize, window.offwidth, window.offheight = before
        settings.numstacks = stacks
        return context

    @staticmethod
    def _geoms_only(group: int) -> mujoco.MjvOption:
        options = mujoco.MjvOption()
        options.geomgroup[:] = options.sitegroup[:] = 0
        options.geomgroup[group] = 1
        return options

    def _num_stacks(self) -> int:
        """Rings along cylinders (2 shade them like 16, grey levels differ by 2 at most) and balls (which need more)."""
        types, sizes = self._model.geom_type, self._model.geom_size
        kinds = mujoco.mjtGeom.mjGEOM_SPHERE, mujoco.mjtGeom.mjGEOM_ELLIPSOID, mujoco.mjtGeom.mjGEOM_CAPSULE
        round_geoms = np.isin(types, kinds) & (sizes[:, 0] > _ROUND_M) & (self._groups == _VISUAL_GROUP)
        return 16 if round_geoms.any() else 2

    def _hide_unseen(self, data: mujoco.MjData, camera_id: int) -> None:
        """Put geoms whose bounding sphere is outside the camera's pyramid of view into a group that is not drawn."""
        half = np.tan(0.5 * np.deg2rad(self._model.cam_fovy[camera_id]))
        offsets = (data.geom_xpos - data.cam_xpos[camera_id]) @ data.cam_xmat[camera_id].reshape(3, 3)
        depth = -offsets[:, 2]
        aside = (np.abs(offsets[:, :2]).max(axis=1) - half * depth) / np.sqrt(1.0 + half * half)
        unseen = (aside > self._bounds) | (depth < -self._bounds)
        self._model.geom_group[:] = np.where(unseen, _HIDDEN_GROUP, self._passes)

    def _camera_id(self, name: str) -> int:
        camera_id = mujoco.mj_name2id(self._model, mujoco.mjtObj.mjOBJ_CAMERA, simulated_name(name))
        if camera_id < 0:
            known = [self._model.camera(i).name for i in range(self._model.ncam)]
            raise ValueError(f"unknown camera {name!r}: this scene has {', '.join(known)}")
        return int(camera_id)

    def render(self, data: mujoco.MjData, out_NHWC: NDArray[np.uint8]) -> None:
        """Draw the first `len(out_NHWC)` cameras into `out_NHWC`, rotated by 180 degrees.

        Uses the geometry as it stands in `data`: call right after stepping.
        """
        _make_gl_current()
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
        for out_HWC, camera_id in zip(out_NHWC, self._camera_ids, strict=False):
            self._camera.fixedcamid = camera_id
            if self._culls:
                self._hide_unseen(data, camera_id)
            mujoco.mjv_updateScene(
                self._model, data, self._options, self._perturbation, self._camera, mujoco.mjtCatBit.mjCAT_ALL,
                self._scene,
            )
            for options in self._later:
                mujoco.mjv_addGeoms(
                    self._model, data, options, self._perturbation, mujoco.mjtCatBit.mjCAT_ALL, self._scene
                )
            mujoco.mjr_render(self._viewport, self._scene, self._context)
            mujoco.mjr_readPixels(self._pixels_HWC, None, self._viewport, self._context)
            # OpenGL's rows run bottom-up, so reversing the columns alone would mirror; reversing both rotates stock's
            # (unflipped) image by 180 degrees.
            _rotate(self._pixels_HWC, out_HWC)  # numpy takes eight times as long
        self._model.geom_group[:] = self._groups

    def close(self) -> None:
        """Free the GPU (or software) copies of meshes and textures."""
        _make_gl_current()
        self._context.free()
