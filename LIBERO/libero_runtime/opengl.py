"""Finds an off-screen OpenGL that works here: EGL first (GPU or Mesa), then OSMesa (software).

Each candidate draws one small frame in a subprocess, because a broken driver may abort the interpreter and
because MuJoCo and PyOpenGL bind to one platform per process. The answer is kept in ``MUJOCO_GL``, so that child
processes inherit it and do not ask again. ``python -m libero_runtime.opengl`` prints the answer.

``MUJOCO_EGL_DEVICE_ID`` asks for one of EGL's devices. What was asked for and does not draw is an error, never a reason
to draw on something else.
"""

import logging
import os
import subprocess
import sys

from libero_runtime.commands import run_command

logger = logging.getLogger(__name__)

CANDIDATES = ("egl", "osmesa")
INSTALL_COMMAND = "apt-get install -y libosmesa6"
_CHECKED = "LIBERO_RUNTIME_OPENGL"  # the value of MUJOCO_GL that a probe (here or in a parent process) has approved
DEVICE_VARIABLE = "MUJOCO_EGL_DEVICE_ID"
_PROBE_TIMEOUT_S = 120

_PROBE = """
import mujoco
model = mujoco.MjModel.from_xml_string(
    '<mujoco><worldbody><light pos="0 0 3"/><camera name="c" pos="0 0 2"/>'
    '<geom type="box" size="1 1 .1" rgba="1 0 0 1"/></worldbody></mujoco>')
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
with mujoco.Renderer(model, 32, 32) as renderer:
    renderer.update_scene(data, 'c')
    pixels = renderer.render()
assert int(pixels[16, 16, 0]) > int(pixels[16, 16, 2]) + 60, f'drew {pixels[16, 16]} where red was expected'
"""


class OpenGLError(ValueError):
    """No usable off-screen OpenGL; the message names the command that installs one."""


def _probe(backend: str) -> str | None:
    """Draw one frame with `backend` in a subprocess; returns None when it works, else the reason."""
    env = dict(os.environ, MUJOCO_GL=backend, PYOPENGL_PLATFORM=backend)
    try:
        command = [sys.executable, "-c", _PROBE]
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=_PROBE_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        return f"no answer within {_PROBE_TIMEOUT_S} s"
    if done.returncode == 0:
        return None
    lines = done.stderr.partition("Exception ignored in")[0].strip().splitlines()  # GLContext fails once more at exit
    return lines[-1] if lines else f"exit code {done.returncode}"


def asked_device() -> str | None:
    """What `MUJOCO_EGL_DEVICE_ID` asks for; None when it is unset or empty, which MuJoCo itself would not take."""
    return os.environ.get(DEVICE_VARIABLE, "").strip() or None


def _apply(backend: str) -> str:
    os.environ |= dict.fromkeys(("MUJOCO_GL", "PYOPENGL_PLATFORM", _CHECKED), backend)
    return backend


def select_opengl() -> str:
    """Choose EGL or OSMesa, set ``MUJOCO_GL`` and ``PYOPENGL_PLATFORM``, and return the choice.

    A ``MUJOCO_GL`` set by the user is respected (and must be one of the two: nothing else draws off-screen here), and
    so is a ``MUJOCO_EGL_DEVICE_ID``, which OSMesa alone has no use for.
    """
    device = asked_device()
    if device is None:
        os.environ.pop(DEVICE_VARIABLE, None)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    if device is not None and visible and not (device.isdigit() and device in visible):  # as robosuite asserts
        raise OpenGLError(
            f"{DEVICE_VARIABLE}={device!r} is set but is not in CUDA_VISIBLE_DEVICES={visible!r}, where robosuite "
            "expects it: name one of those, or unset one of the two variables"
        )
    chosen = os.environ.get("MUJOCO_GL", "").strip().lower()
    if chosen and chosen not in CANDIDATES:
        raise OpenGLError(
            f"MUJOCO_GL={chosen!r} cannot render off-screen: expected one of {', '.join(CANDIDATES)}, "
            "or unset it to let the program choose"
        )
    if chosen and os.environ.get(_CHECKED) == chosen:
        return _apply(chosen)
    reasons: list[str] = []
    for backend in (chosen,) if chosen else CANDIDATES:
        reason = _probe(backend)
        if reason is None:
            logger.info("off-screen OpenGL: %s", backend)
            return _apply(backend)
        if backend == "egl" and device is not None:
            raise OpenGLError(
                f"{DEVICE_VARIABLE}={device!r} is set but does not draw here ({reason}). Name another one, unset it to "
                "let the program choose, or set MUJOCO_GL=osmesa to draw in software"
            )
        reasons.append(f"{backend}: {reason}")
    if chosen:
        raise OpenGLError(
            f"MUJOCO_GL={chosen} is set but does not draw here ({reasons[0]}). "
            f"Unset it to let the program choose, or install software rendering with `{INSTALL_COMMAND}`"
        )
    raise OpenGLError(
        "no off-screen OpenGL works on this machine: expected EGL or OSMesa, found neither "
        f"({'; '.join(reasons)}). Install software rendering with `{INSTALL_COMMAND}` and try again"
    )


def main() -> int:
    """Print the backend that works here; exit code 2 with one message when there is none."""

    def command() -> int:
        sys.stdout.write(select_opengl() + "\n")
        return 0

    return run_command(command)


if __name__ == "__main__":
    raise SystemExit(main())
