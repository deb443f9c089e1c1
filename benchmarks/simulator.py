"""The simulator against stock LIBERO in the same run: same task, two cameras 256 x 256, a look every 8 steps.

    python benchmarks/simulator.py [--suite libero_spatial] [--task 0] [--chunks 6]
    python benchmarks/simulator.py --processes 16 [--envs 8] [--seconds 15]     # all cores: steps per second, wall
    python benchmarks/simulator.py --scenes [--suite libero_10]                 # all scenes of a suite in one process

``--only ours`` leaves stock's column empty: a machine with the reduced models alone cannot run stock.

Stock is `OffScreenRenderEnv`, which draws every step; ours draws when the policy looks. The first form measures one
thread, in CPU time (which a busy machine does not stretch) and wall time (which counts on a GPU), every column in a
process of its own. The second runs as many processes of either at the same time, stock with one environment each as
stock has it, ours with `--envs`. The third makes every scene of a suite, each settled and drawn once. Prints
one table; exit code 2, with one message, when it cannot run.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

IMAGE_SIZE = 256
CAMERAS = ("agentview", "robot0_eye_in_hand")
MODES = ("stock", "ours")
CHUNK = 8  # actions between two looks
START_TIMEOUT_S = 170.0

Numbers = dict[str, float]


def resident_mb() -> float:
    """Resident memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def milliseconds(count: int, action: Callable[[], object]) -> tuple[float, float]:
    """CPU and wall time of one call, over `count` calls."""
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(count):
        action()
    return (time.process_time() - cpu) / count * 1e3, (time.perf_counter() - wall) / count * 1e3


class Stock:
    """Stock OffScreenRenderEnv of a task."""

    def __init__(self, suite: str, task_id: int) -> None:
        import numpy as np

        from libero_runtime.opengl import select_opengl
        from libero_runtime.paths import prepare_libero
        from libero_runtime.sim.models import quiet_robosuite
        from libero_runtime.suites import init_states, load_suite

        select_opengl()
        prepare_libero("official")
        quiet_robosuite()
        from libero.libero.envs import OffScreenRenderEnv

        self.task = load_suite(suite).task(task_id)
        self.state = init_states(self.task)[0]
        self.rng = np.random.default_rng(0)
        begin = time.perf_counter()
        self.env = OffScreenRenderEnv(
            bddl_file_name=str(self.task.bddl_path), camera_names=list(CAMERAS), camera_heights=IMAGE_SIZE,
            camera_widths=IMAGE_SIZE,
        )  # fmt: skip
        self.construct_s = time.perf_counter() - begin
        self.reset()

    def reset(self) -> None:
        """As LIBERO's own evaluation does, without the idle steps."""
        self.env.reset()
        self.env.set_init_state(self.state)

    def chunk(self) -> int:
        """Run a chunk; number of steps."""
        for action in self.rng.uniform(-1, 1, (CHUNK, 7)):
            self.env.step(action)
        self.env.env.timestep = 0  # an episode may be as long as the measurement
        return CHUNK

    def measure(self, chunks: int) -> Numbers:
        """All numbers of the first table."""
        self.chunk()
        numbers = {"construct_s": self.construct_s, "memory_mb": resident_mb()}
        numbers["chunk_ms"], numbers["chunk_wall_ms"] = milliseconds(chunks, self.chunk)
        numbers["reset_ms"], _ = milliseconds(2, self.reset)
        for camera in CAMERAS:
            self.env.env.modify_observable(f"{camera}_image", "enabled", False)
        chunk_ms, _ = milliseconds(chunks, self.chunk)
        numbers["step_ms"] = chunk_ms / CHUNK
        numbers["frame_ms"], numbers["frame_wall_ms"] = milliseconds(
            5, lambda: self.env.sim.render(camera_name=CAMERAS[0], width=IMAGE_SIZE, height=IMAGE_SIZE)
        )
        return numbers


class Ours:
    """`LiberoVectorEnv` with a few episodes of a task."""

    def __init__(self, suite: str, task_id: int, *, num_envs: int = 2) -> None:
        import numpy as np

        from libero_runtime.vector.env import EpisodeStart, LiberoVectorEnv

        self.rng = np.random.default_rng(0)
        self.num_envs = num_envs
        begin = time.perf_counter()
        self.env = LiberoVectorEnv(num_envs=num_envs, cameras=CAMERAS, image_size=IMAGE_SIZE)
        self.env.reset([EpisodeStart(suite, task_id, i) for i in range(num_envs)])
        self.construct_s = time.perf_counter() - begin

    def chunk(self) -> int:
        """Run a chunk in every episode; number of steps in all."""
        actions_BCA = self.rng.uniform(-1, 1, (self.num_envs, CHUNK, 7)).astype("float32")
        self.env.step_chunk(actions_BCA, stop_on_success=False)
        return self.num_envs * CHUNK

    def measure(self, chunks: int) -> Numbers:
        """All numbers of the first table."""
        numbers = {"construct_s": self.construct_s, "memory_mb": resident_mb()}
        self.chunk()
        cpu, wall = milliseconds(chunks, self.chunk)
        numbers["chunk_ms"], numbers["chunk_wall_ms"] = cpu / self.num_envs, wall / self.num_envs
        scene = next(iter(self.env._scenes.values()))
        state, _ = scene.start(init_index=0)
        actions_CA = self.rng.uniform(-1, 1, (10 * CHUNK, 7))
        step_ms, _ = milliseconds(2, lambda: scene.advance(state, actions_CA))
        numbers["step_ms"] = step_ms / len(actions_CA)
        numbers["mj_step_ms"] = mj_step_ms(scene, state, actions_CA)
        frames = milliseconds(10, lambda: scene.draw(state.pose))
        numbers["frame_ms"], numbers["frame_wall_ms"] = (ms / len(CAMERAS) for ms in frames)
        seeds = iter(range(1, 1000))
        numbers["reset_ms"], _ = milliseconds(20, lambda: scene.prepare(init_index=1, seed=next(seeds)))
        prepared = scene.prepare(init_index=1, seed=0)
        numbers["settle_ms"], _ = milliseconds(3, lambda: scene.settle(prepared))
        return numbers


def mj_step_ms(scene: Any, state: Any, actions_CA: Any) -> float:
    """CPU time of MuJoCo's own steps per control step: the same motion, its controls replayed by MuJoCo's C loop."""
    import mujoco
    import numpy as np
    from mujoco import rollout

    from libero_runtime.sim.stepper import SUBSTEPS

    model, data = scene.model, scene.data
    scene.load(state)
    full = mujoco.mjtState.mjSTATE_FULLPHYSICS
    state = np.empty(mujoco.mj_stateSize(model, full))
    mujoco.mj_getState(model, data, state, full)
    warm = data.qacc_warmstart.copy()
    controls = np.empty((1, len(actions_CA) * SUBSTEPS, model.nu))
    for i, action in enumerate(actions_CA):
        for substep in range(SUBSTEPS):
            scene._stepper.substep(action, first=substep == 0)
            controls[0, i * SUBSTEPS + substep] = data.ctrl
    end = data.qpos.copy()

    def replay() -> None:
        rollout.rollout(model, data, state[None], controls, initial_warmstart=warm[None])

    cpu, _ = milliseconds(2, replay)
    if not np.array_equal(end, data.qpos):
        raise RuntimeError("replaying the controls gave another motion: the share of mj_step would mean nothing")
    return cpu / len(actions_CA)


def make(mode: str, suite: str, task_id: int, *, num_envs: int) -> Stock | Ours:
    """Stock, which is one environment, or ours."""
    if mode == "stock":
        return Stock(suite, task_id)
    return Ours(suite, task_id, num_envs=num_envs)


def measure_one(mode: str, suite: str, task_id: int, chunks: int, answers: Queue[Numbers]) -> None:
    """Child of the first form."""
    numbers = make(mode, suite, task_id, num_envs=2).measure(chunks)
    answer(numbers, answers)


def answer(numbers: Numbers, answers: Queue[Numbers]) -> None:
    """Hand the numbers over and end at once: robosuite's contexts complain when the interpreter takes them down."""
    answers.put(numbers)
    answers.close()
    answers.join_thread()
    os._exit(0)


def run_for(
    mode: str,
    suite: str,
    task_id: int,
    num_envs: int,
    seconds: float,
    barrier: Barrier,
    answers: Queue[Numbers],
) -> None:
    """Child of the second form: as many chunks as fit, all children at the same time."""
    simulator = make(mode, suite, task_id, num_envs=num_envs)
    simulator.chunk()
    barrier.wait(START_TIMEOUT_S)
    begin, steps = time.perf_counter(), 0
    while time.perf_counter() - begin < seconds:
        steps += simulator.chunk()
    answer({"rate": steps / (time.perf_counter() - begin), "memory_mb": resident_mb()}, answers)


def print_table(title: str, rows: list[tuple[str, float | None, float | None, float | None]]) -> None:
    """Label, stock, ours, ratio."""
    print(f"| {title:<58} | {'stock':>8} | {'ours':>8} | {'ratio':>7} |")
    print(f"|{'-' * 60}|---------:|---------:|--------:|")
    for label, *values in rows:
        cells = [f"{value:8.4g}" if value is not None else " " * 8 for value in values[:2]]
        ratio = f"{values[2]:6.1f}x" if values[2] is not None else " " * 7
        print(f"| {label:<58} | {cells[0]} | {cells[1]} | {ratio} |")


def one_thread(suite: str, task_id: int, chunks: int, modes: Sequence[str]) -> None:
    """The first form."""
    columns: dict[str, Numbers] = {mode: {} for mode in MODES}
    context = multiprocessing.get_context("spawn")
    for mode in modes:
        answers: Queue[Numbers] = context.Queue()
        child = context.Process(target=measure_one, args=(mode, suite, task_id, chunks, answers))
        child.start()
        columns[mode] = answers.get(timeout=START_TIMEOUT_S)
        child.join()
    stock, ours = columns["stock"], columns["ours"]

    idle_ms = stock["step_ms"] * 10 if stock else None

    def row(label: str, name: str, *, ratio: bool = True) -> tuple[str, float | None, float | None, float | None]:
        a, b = stock.get(name), ours.get(name)
        return label, a, b, a / b if ratio and a and b else None

    print_table(
        f"{suite} task {task_id}, one thread",
        [
            row(f"{CHUNK} steps and a look through two cameras (CPU ms)", "chunk_ms"),
            row(f"{CHUNK} steps and a look through two cameras (wall ms)", "chunk_wall_ms"),
            row("control step, nothing drawn (CPU ms)", "step_ms"),
            row(f"one {IMAGE_SIZE} x {IMAGE_SIZE} frame (CPU ms)", "frame_ms"),
            row(f"one {IMAGE_SIZE} x {IMAGE_SIZE} frame (wall ms)", "frame_wall_ms"),
            row("reset to an initial state, fixtures drawn anew (CPU ms)", "reset_ms"),
            ("ten idle steps, once per start (CPU ms)", idle_ms, ours["settle_ms"], None),
            row("first environment of a task, ready (s)", "construct_s"),
            row("memory, first environment (MB)", "memory_mb"),
            ("share of mj_step in our stepping (%)", None, 100 * ours["mj_step_ms"] / ours["step_ms"], None),
            ("share of mj_step in steps and look (%)", None, 100 * CHUNK * ours["mj_step_ms"] / ours["chunk_ms"], None),
        ],
    )  # fmt: skip


def all_cores(
    suite: str, task_id: int, modes: Sequence[str], *, processes: int, num_envs: int, seconds: float
) -> None:
    """The second form."""
    context = multiprocessing.get_context("spawn")
    rates: dict[str, float] = {}
    memory: dict[str, float] = {}
    for mode in modes:
        answers: Queue[Numbers] = context.Queue()
        barrier = context.Barrier(processes)
        children = [
            context.Process(target=run_for, args=(mode, suite, task_id, num_envs, seconds, barrier, answers))
            for _ in range(processes)
        ]
        for child in children:
            child.start()
        results = [answers.get(timeout=START_TIMEOUT_S + seconds) for _ in children]
        for child in children:
            child.join()
        rates[mode] = sum(result["rate"] for result in results)
        memory[mode] = sum(result["memory_mb"] for result in results) / processes
    per_env = memory["ours"] / num_envs

    def row(
        label: str, ours: float, stock: float | None, *, less_is_better: bool
    ) -> tuple[str, float | None, float, float | None]:
        ratio = None if stock is None else stock / ours if less_is_better else ours / stock
        return label, stock, ours, ratio

    print_table(
        f"{suite} task {task_id}, {processes} processes, ours {num_envs} env(s)",
        [
            row("steps per second, two cameras (wall)", rates["ours"], rates.get("stock"), less_is_better=False),
            row("memory per process (MB)", memory["ours"], memory.get("stock"), less_is_better=True),
            row("memory per environment (MB)", per_env, memory.get("stock"), less_is_better=True),
        ],
    )


def make_scenes(suite: str, answers: Queue[list[Numbers]]) -> None:
    """Memory and time of each scene of a suite, in a process of its own."""
    from libero_runtime.sim.scene import Scene
    from libero_runtime.suites import load_suite

    kept, found = [], []
    for task in load_suite(suite).tasks:
        begin = time.perf_counter()
        scene = Scene(task, cameras=CAMERAS, image_size=IMAGE_SIZE)
        made = time.perf_counter() - begin
        state, _ = scene.start(init_index=0, seed=0)
        scene.draw(state.pose)
        kept.append(scene)
        found.append({"construct_s": made, "memory_mb": resident_mb()})
    answers.put(found)


def all_scenes(suite: str) -> None:
    """The third form."""
    context = multiprocessing.get_context("spawn")
    answers: Queue[list[Numbers]] = context.Queue()
    child = context.Process(target=make_scenes, args=(suite, answers))
    child.start()
    scenes = answers.get(timeout=START_TIMEOUT_S)
    child.join()
    first, last, others = scenes[0], scenes[-1], scenes[1:]
    print_table(
        f"{suite}, {len(scenes)} scenes in one process",
        [
            ("first scene, ready (s)", None, first["construct_s"], None),
            ("a further scene, ready (s, mean)", None, sum(one["construct_s"] for one in others) / len(others), None),
            ("memory with one scene (MB)", None, first["memory_mb"], None),
            ("memory with all of them (MB)", None, last["memory_mb"], None),
        ],
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the asked form."""
    from libero_runtime.commands import run_command, use_one_thread

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", default="libero_spatial")
    parser.add_argument("--task", type=int, default=0)
    parser.add_argument("--chunks", type=int, default=6, help="of 8 steps, in each measurement of the first form")
    parser.add_argument("--processes", type=int, default=0, help="measure all cores with so many processes")
    parser.add_argument("--envs", type=int, default=2, help="in each of our processes in the second form")
    parser.add_argument("--scenes", action="store_true", help="the third form")
    parser.add_argument("--only", choices=["ours"], help="leave stock out of the first two forms")
    parser.add_argument("--seconds", type=float, default=15.0, help="of each measurement in the second form")
    args = parser.parse_args(arguments)
    use_one_thread()
    return run_command(lambda: run(args))


def run(args: argparse.Namespace) -> int:
    """Check what the children need, then measure; raises a `ValueError` that says what is missing."""
    from libero_runtime.commands import OptionError
    from libero_runtime.opengl import select_opengl
    from libero_runtime.paths import prepare_libero
    from libero_runtime.suites import load_suite

    for name in ("chunks", "envs"):
        if getattr(args, name) < 1:
            raise OptionError(f"--{name} {getattr(args, name)} must be at least 1")
    if args.processes < 0 or args.seconds <= 0:
        raise OptionError(f"--processes {args.processes} must be at least 0 and --seconds {args.seconds} more than 0")
    load_suite(args.suite).task(args.task)
    select_opengl()
    prepare_libero()
    modes = [args.only] if args.only else MODES
    if args.scenes:
        all_scenes(args.suite)
    elif args.processes:
        all_cores(
            args.suite,
            args.task,
            modes,
            processes=args.processes,
            num_envs=args.envs,
            seconds=args.seconds,
        )
    else:
        one_thread(args.suite, args.task, args.chunks, modes)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
