"""How often the scripted expert succeeds: one table over tasks, all their initial states, nothing drawn.

python -m libero_runtime.expert_table --suites libero_spatial,libero_object,libero_goal,libero_10 --num-workers 4
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from libero_runtime.commands import at_least_one, not_negative, parse_numbers, run_command, use_one_thread, whole
from libero_runtime.cpus import num_cpus
from libero_runtime.demos.episodes import MAX_STEPS, Attempt, EpisodeOptions, EpisodePlan, try_episode
from libero_runtime.opengl import select_opengl
from libero_runtime.paths import prepare_libero, resolve_paths
from libero_runtime.sim.scene import Scene
from libero_runtime.suites import SUITES, TaskSpec, init_states, load_suite


@dataclass(frozen=True)
class Row:
    """One line of the table: a task, and its episodes by initial state."""

    suite: str
    task_id: int
    language: str
    attempts: Sequence[Attempt]

    @property
    def success(self) -> float:
        """Share of episodes that succeeded."""
        return float(np.mean([attempt.success for attempt in self.attempts]))

    @property
    def steps(self) -> list[int]:
        """Control steps of the successful ones."""
        return [attempt.num_steps for attempt in self.attempts if attempt.success]

    @property
    def failed(self) -> list[int]:
        """Initial states of the others."""
        return [index for index, attempt in enumerate(self.attempts) if not attempt.success]


def run_task(task: TaskSpec, options: EpisodeOptions, num_init_states: int, seed: int) -> Row:
    """Run a task from each of its first initial states."""
    scene = Scene(task, image_size=16)  # never drawn
    plans = [
        EpisodePlan(task.task_id, attempt=index, init_index=index, scene_seed=seed, seed=seed)
        for index in range(min(num_init_states, len(init_states(task))))
    ]
    attempts = [try_episode(scene, plan, options) for plan in plans]
    scene.close()
    return Row(task.suite, task.task_id, task.language, attempts)


def table(rows: Sequence[Row]) -> str:
    """Markdown: a line per task, then a line per suite."""
    lines = ["| suite | task | instruction | success | steps, mean | longest |", "|---|---:|---|---:|---:|---:|"]
    lines += [
        f"| {row.suite} | {row.task_id} | {row.language} | {100 * row.success:.0f} % | "
        f"{_mean(row.steps)} | {max(row.steps, default=0)} |"
        for row in rows
    ]
    lines += ["", "| suite | success | steps, mean | episodes |", "|---|---:|---:|---:|"]
    for suite in dict.fromkeys(row.suite for row in rows):
        own = [row for row in rows if row.suite == suite]
        lines.append(
            f"| {suite} | {100 * float(np.mean([row.success for row in own])):.1f} % | "
            f"{_mean([steps for row in own for steps in row.steps])} | {sum(len(row.attempts) for row in own)} |"
        )
    return "\n".join(lines)


def _mean(steps: Sequence[int]) -> str:
    return f"{np.mean(steps):.0f}" if steps else "-"


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m libero_runtime.expert_table",
        description="Success and length of the scripted expert's episodes, per task, from the published states.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--suites", default=",".join(SUITES), help="separated by commas")
    parser.add_argument("--tasks", default="0-9", help="task numbers, such as 0-9 or 0,3,5")
    parser.add_argument("--init-states", type=at_least_one, default=50, help="initial states per task")
    parser.add_argument("--num-workers", type=at_least_one, default=num_cpus(), help="processes, one per core")
    parser.add_argument("--noise", type=not_negative, default=0.0, help="spread of the noise on the executed motion")
    parser.add_argument("--max-grasps", type=at_least_one, default=3, help="of one thing, in an episode")
    parser.add_argument("--seed", type=whole, default=0, help="of fixture poses and noise")
    parser.add_argument("--output", type=Path, help="also write the table to this file")
    parsed = parser.parse_args(arguments)
    use_one_thread()
    return run_command(lambda: _print_table(parsed))


def _print_table(parsed: argparse.Namespace) -> int:
    suites = [load_suite(name.strip()) for name in parsed.suites.split(",")]
    tasks = [suite.task(task_id) for suite in suites for task_id in parse_numbers(parsed.tasks)]
    options = [
        EpisodeOptions(
            noise=parsed.noise,
            max_steps=MAX_STEPS.get(task.suite, max(MAX_STEPS.values())),
            max_grasps=parsed.max_grasps,
        )
        for task in tasks
    ]
    select_opengl()
    prepare_libero()  # makes the compact models once, before the workers look for them
    run = partial(run_task, num_init_states=parsed.init_states, seed=parsed.seed)
    with ProcessPoolExecutor(min(parsed.num_workers, len(tasks)), multiprocessing.get_context("spawn")) as pool:
        rows = list(tqdm(pool.map(run, tasks, options), total=len(tasks), unit="task"))
    text = table(rows)
    failures = [f"{row.suite} task {row.task_id}: failed from {row.failed}" for row in rows if row.failed]
    sys.stdout.write("\n".join([text, "", *failures, f"assets: {resolve_paths().asset_kind}"]) + "\n")
    if parsed.output is not None:
        parsed.output.write_text(text + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
