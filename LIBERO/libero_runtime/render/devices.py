"""Which GPUs worker processes draw on.

Processes that draw on one GPU take turns: on an H200, judged by the time of whole runs, 64 of them drew no more frames
per second than 29. So they are spread over all GPUs that MuJoCo could draw on.
"""

import os
import subprocess
import sys
from collections.abc import Sequence

from libero_runtime.opengl import DEVICE_VARIABLE, asked_device, select_opengl

SOFTWARE = "EGL_MESA_device_software"  # extension of a device that draws on the CPU
_SCRIPT = """
import ctypes, sys
from mujoco.egl import egl_ext as egl

string_of = ctypes.CFUNCTYPE(ctypes.c_char_p, ctypes.c_void_p, ctypes.c_int)
query = string_of(egl.eglGetProcAddress('eglQueryDeviceStringEXT'))
for number, device in enumerate(egl.eglQueryDevicesEXT()):
    display = egl.eglGetPlatformDisplayEXT(egl.EGL_PLATFORM_DEVICE_EXT, device, None)
    try:
        works = bool(display) and egl.eglInitialize(display, None, None) == egl.EGL_TRUE
    except egl.error.GLError:  # a GPU of the host that is not ours
        continue
    extensions = query(ctypes.cast(device, ctypes.c_void_p), egl.EGL_EXTENSIONS) or b''
    if works and sys.argv[1].encode() not in extensions:
        print(number)
"""


def usable(devices: Sequence[int], *, visible: str) -> list[int]:
    """Devices that robosuite lets MuJoCo draw on: those named in CUDA_VISIBLE_DEVICES, where that is set."""
    names = [name.strip() for name in visible.split(",")]
    return list(devices) if not visible else [device for device in devices if str(device) in names]


def drawing_devices() -> list[int]:
    """EGL's numbers of the GPUs to draw on in turns; none where there is none, or MUJOCO_EGL_DEVICE_ID has chosen."""
    if select_opengl() != "egl" or asked_device() is not None:
        return []
    done = subprocess.run([sys.executable, "-c", _SCRIPT, SOFTWARE], capture_output=True, text=True, check=False)
    found = [int(line) for line in done.stdout.split()] if done.returncode == 0 else []
    return usable(found, visible=os.environ.get("CUDA_VISIBLE_DEVICES", ""))


def device_environment(worker: int, devices: Sequence[int]) -> dict[str, str]:
    """Environment variables that make worker number `worker` draw on one of `devices`, in turns; none without any.

    To be set before the worker draws. EGL numbers devices by itself: its device 0 need not be CUDA's.
    """
    return {DEVICE_VARIABLE: str(devices[worker % len(devices)])} if devices else {}
