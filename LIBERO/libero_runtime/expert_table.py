"""How often the scripted expert succeeds: one table over tasks, all their initial states, nothing drawn.

python -m libero_runtime.expert_table --suites libero_spatial,libero_object,libero_goal,libero_10 --num-workers 4
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from libero_runtime.commands import at_least_one, not_negative, parse_numbers, run_command, use_one_thread, whole
from libero_runtime.cpus import num_cpus
from libero_runtime.demos.episodes import MAX_STEPS, Attempt, EpisodeOptions, EpisodePlan, try_episode
from libero_runtime.opengl import select_opengl
from libero_runtime.paths import prepare_libero, resolve_paths
from libero_runtime.sim.scene import Scene
from libero_runtime.suites import SUITES, init_states, load_suite


@dataclass(frozen=True)
class Job:
    """All episodes of one task."""

    suite: str
    task_id: int
    num_init_states: int
    seed: int
    options: EpisodeOptions


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    job: Job
    language: str
    attempts: tuple[Attempt, ...]

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


def run_task(job: Job) -> Row:
    """Run a task from each of its first initial states."""
    task = load_suite(job.suite).task(job.task_id)
    scene = Scene(task, image_size=16)  # never drawn
    plans = [
        EpisodePlan(job.task_id, attempt=index, init_index=index, scene_seed=job.seed, seed=job.seed)
        for index in range(min(job.num_init_states, len(init_states(task))))
    ]
    attempts = tuple(try_episode(scene, plan, job.options) for plan in plans)
    scene.close()
    return Row(job, task.language, attempts)


def measure(jobs: Sequence[Job], *, num_workers: int) -> list[Row]:
    """Run all jobs, one task per process at a time; rows in the order of the jobs."""
    prepare_libero()  # makes the compact models once, before the workers look for them
    with multiprocessing.get_context("spawn").Pool(min(num_workers, len(jobs))) as pool:
        return list(tqdm(pool.imap(run_task, jobs), total=len(jobs), unit="task"))


def table(rows: Sequence[Row]) -> str:
    """Markdown: a line per task, then a line per suite."""
    lines = ["| suite | task | instruction | success | steps, mean | longest |", "|---|---:|---|---:|---:|---:|"]
    lines += [
        f"| {row.job.suite} | {row.job.task_id} | {row.language} | {100 * row.success:.0f} % | "
        f"{_mean(row.steps)} | {max(row.steps, default=0)} |"
        for row in rows
    ]
    lines += ["", "| suite | success | steps, mean | episodes |", "|---|---:|---:|---:|"]
    for suite in dict.fromkeys(row.job.suite for row in rows):
        own = [row for row in rows if row.job.suite == suite]
        lines.append(
            f"| {suite} | {100 * float(np.mean([row.success for row in own])):.1f} % | "
            f"{_mean([steps for row in own for steps in row.steps])} | {sum(len(row.attempts) for row in own)} |"
        )
    return "\n".join(lines)


def _mean(steps: Sequence[int]) -> str:
    return f"{np.mean(steps):.0f}" if steps else "-"


def _jobs(arguments: argparse.Namespace) -> list[Job]:
    tasks = parse_numbers(arguments.tasks)
    jobs = []
    for name in arguments.suites.split(","):
        suite = load_suite(name.strip())
        options = EpisodeOptions(
            noise=arguments.noise,
            max_steps=MAX_STEPS.get(suite.name, max(MAX_STEPS.values())),
            max_grasps=arguments.max_grasps,
        )
        for task_id in tasks:
            suite.task(task_id)
            jobs.append(Job(suite.name, task_id, arguments.init_states, arguments.seed, options))
    return jobs


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
    jobs = _jobs(parsed)
    select_opengl()
    rows = measure(jobs, num_workers=parsed.num_workers)
    text = table(rows)
    failures = [f"{row.job.suite} task {row.job.task_id}: failed from {row.failed}" for row in rows if row.failed]
    sys.stdout.write("\n".join([text, "", *failures, f"assets: {resolve_paths().asset_kind}"]) + "\n")
    if parsed.output is not None:
        parsed.output.write_text(text + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
