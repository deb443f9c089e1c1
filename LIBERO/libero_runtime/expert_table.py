"""How often the scripted expert succeeds: one table over tasks, all their initial states, nothing drawn.

python -m libero_runtime.expert_table --suites libero_spatial,libero_object,libero_goal,libero_10 --num-workers 4
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated

import numpy as np
from tqdm import tqdm

from libero_runtime.commands import use_one_thread
from libero_runtime.cpus import num_cpus
from libero_runtime.demos.episodes import MAX_STEPS, Attempt, AttemptPlan, EpisodeOptions, try_episode
from libero_runtime.options import Option, run_with_options
from libero_runtime.paths import resolve_paths
from libero_runtime.sim.scene import Scene
from libero_runtime.suites import TaskOptions, TaskSpec, init_states, over_tasks


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


def run_task(task: TaskSpec, *, noise: float, num_init_states: int, seed: int) -> Row:
    """Run a task from each of its first initial states."""
    options = EpisodeOptions(noise=noise, max_steps=MAX_STEPS.get(task.suite, max(MAX_STEPS.values())))
    scene = Scene(task, image_size=16)  # never drawn
    plans = [
        AttemptPlan(index, scene_seed=seed, seed=seed)
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


@dataclass(frozen=True, kw_only=True)
class Options(TaskOptions):
    """What is measured."""

    init_states: Annotated[int, Option("initial states per task", least=1)] = 50
    num_workers: Annotated[int, Option("processes (default: one per core)", least=1)] = field(default_factory=num_cpus)
    noise: Annotated[float, Option("spread of the noise on the executed motion", least=0)] = 0.0
    seed: Annotated[int, Option("of fixture poses and noise", least=0)] = 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    use_one_thread()
    return run_with_options(Options, _print_table, arguments, description=__doc__)


def _print_table(asked: Options) -> int:
    tasks = asked.chosen()
    run = partial(run_task, noise=asked.noise, num_init_states=asked.init_states, seed=asked.seed)
    rows = list(tqdm(over_tasks(run, tasks, asked.num_workers), total=len(tasks), unit="task"))
    failures = [f"{row.suite} task {row.task_id}: failed from {row.failed}" for row in rows if row.failed]
    sys.stdout.write("\n".join([table(rows), "", *failures, f"assets: {resolve_paths().asset_kind}"]) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
