"""Time and memory of the simulator: stock LIBERO, our exact stepping, our fast stepping.

    python benchmarks/simulator.py [--task 0] [--steps 40]

Prints a table of milliseconds per control step and per rendered frame, and the memory of one and of ten scenes. Every
column runs in a process of its own with one thread. Steps and frames are CPU time, which a busy machine does not
stretch; on a GPU look at the wall time of frames instead.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

IMAGE_SIZE = 256
MODES = ("stock", "exact", "fast")


def resident_mb() -> float:
    """Resident memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def report(name: str, value: float) -> None:
    print(f"{name}={value:.6g}", flush=True)


def measure(names: Sequence[str], count: int, arguments: Iterator[Any], action: Callable[[Any], object]) -> None:
    """Report `<names[0]>_ms` in CPU time and, when asked, `<names[1]>_ms` in wall time, per call."""
    wall, cpu = time.perf_counter(), time.process_time()
    for argument in arguments:
        action(argument)
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    for name, seconds in zip(names, (cpu, wall), strict=False):
        report(f"{name}_ms", seconds / count * 1e3)


def measure_stock(task_id: int, steps: int) -> None:
    """Stock OffScreenRenderEnv: without a camera, and drawing every step as it always does."""
    import numpy as np

    from libero_runtime.opengl import select_opengl
    from libero_runtime.paths import prepare_libero
    from libero_runtime.suites import init_states, load_suite

    select_opengl()
    prepare_libero()
    from libero.libero.envs import OffScreenRenderEnv

    task = load_suite("libero_spatial").task(task_id)
    begin = time.perf_counter()
    env = OffScreenRenderEnv(
        bddl_file_name=str(task.bddl_path), camera_names=["agentview"], camera_heights=IMAGE_SIZE,
        camera_widths=IMAGE_SIZE,
    )
    report("construct_s", time.perf_counter() - begin)
    begin = time.perf_counter()
    env.reset()
    env.set_init_state(init_states(task)[0])
    report("reset_s", time.perf_counter() - begin)
    actions = np.random.default_rng(0).uniform(-1, 1, (steps, 7))
    env.env.modify_observable("agentview_image", "enabled", False)
    measure(("step",), steps, iter(actions), env.step)
    measure(("frame", "frame_wall"), 10, iter(range(10)), lambda _: env.sim.render(
        camera_name="agentview", width=IMAGE_SIZE, height=IMAGE_SIZE
    ))
    report("memory_1_mb", resident_mb())
    env.close()


def measure_ours(task_id: int, steps: int, *, exact: bool) -> None:
    """One scene of ours, then nine more."""
    import numpy as np

    from libero_runtime.scene import SUBSTEPS, Scene
    from libero_runtime.suites import load_suite

    suite = load_suite("libero_spatial")
    begin = time.perf_counter()
    scene = Scene(suite.task(task_id), image_size=IMAGE_SIZE, exact=exact, look="official" if exact else "fast")
    report("construct_s", time.perf_counter() - begin)
    scene.start(init_index=1)
    begin = time.perf_counter()
    slot, _ = scene.start(init_index=0)
    report("reset_s", time.perf_counter() - begin)
    scene.load(slot)
    actions = np.random.default_rng(0).uniform(-1, 1, (steps, 7))

    def step_undrawn(action: Any) -> None:
        for substep in range(SUBSTEPS):
            scene._controller.substep(action, first=substep == 0)
        scene._success_test()

    measure(("step",), steps, iter(actions), step_undrawn if exact else scene.step)
    measure(("frame", "frame_wall"), 10, iter(range(10)), lambda _: scene._draw(1))
    report("memory_1_mb", resident_mb())
    begin = time.perf_counter()
    others = [Scene(task, image_size=IMAGE_SIZE, exact=exact) for task in suite.tasks if task.task_id != task_id]
    report("construct_next_s", (time.perf_counter() - begin) / len(others))
    for other in others:
        other.start(init_index=0)
    report("memory_10_mb", resident_mb())


def run_mode(mode: str, task_id: int, steps: int) -> dict[str, float]:
    """Measure one column in a fresh single-threaded process."""
    env = dict(os.environ, OMP_NUM_THREADS="1", LP_NUM_THREADS="1")
    command = [sys.executable, __file__, "--mode", mode, "--task", str(task_id), "--steps", str(steps)]
    done = subprocess.run(command, env=env, check=True, stdout=subprocess.PIPE, text=True)
    pairs = (line.split("=", 1) for line in done.stdout.splitlines() if "=" in line)
    return {name: float(value) for name, value in pairs}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", type=int, default=0, help="LIBERO-Spatial task, 0 to 9")
    parser.add_argument("--steps", type=int, default=40, help="control steps per measurement")
    parser.add_argument("--mode", choices=MODES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.mode == "stock":
        measure_stock(args.task, args.steps)
    elif args.mode:
        measure_ours(args.task, args.steps, exact=args.mode == "exact")
    else:
        columns = {mode: run_mode(mode, args.task, args.steps) for mode in MODES}
        rows = {
            "step_ms": "control step, nothing drawn (CPU ms)",
            "frame_ms": f"one {IMAGE_SIZE} x {IMAGE_SIZE} frame (CPU ms)",
            "frame_wall_ms": f"one {IMAGE_SIZE} x {IMAGE_SIZE} frame (wall ms)",
            "construct_s": "first scene (s)",
            "construct_next_s": "each further task's scene (s)",
            "reset_s": "reset (s; ours with ten idle steps and a frame)",
            "memory_1_mb": "memory, one scene (MB)",
            "memory_10_mb": "memory, ten scenes (MB)",
        }
        print(f"| {'LIBERO-Spatial task ' + str(args.task):<48} | " + " | ".join(f"{mode:>7}" for mode in MODES) + " |")
        print("|" + "-" * 50 + "|" + "|".join(["--------:"] * len(MODES)) + "|")
        for key, label in rows.items():
            cells = (f"{columns[mode][key]:7.4g}" if key in columns[mode] else f"{'':7}" for mode in MODES)
            print(f"| {label:<48} | " + " | ".join(cells) + " |")
        frames = {"stock": 8, "exact": 8, "fast": 1}  # the first two draw every step
        chunk = {mode: 8 * columns[mode]["step_ms"] + n * columns[mode]["frame_ms"] for mode, n in frames.items()}
        cells = (f"{chunk[mode]:7.4g}" for mode in MODES)
        print(f"| {'chunk of 8 actions, one camera (CPU ms)':<48} | " + " | ".join(cells) + " |")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
