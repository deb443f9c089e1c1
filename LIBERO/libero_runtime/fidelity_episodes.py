"""Do whole episodes end alike in stock LIBERO and here?

    python -m libero_runtime.fidelity_episodes [--suites libero_spatial] [--tasks 0-9] [--episodes 10] [--jobs 2]

The scripted expert plays each episode here, every second one under noise and with a single attempt, so that some fail.
Stock LIBERO then starts from the same state and is given the same actions, open loop: nothing corrects a
difference. Alike means that both reach the goal or neither does, stock within ten more steps at rest.

Exit code 0 when at least 99 % are alike, 1 when fewer are, 2 when it cannot run.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from libero_runtime.commands import OptionError
from libero_runtime.demos.episodes import MAX_STEPS, EpisodeOptions, play
from libero_runtime.fidelity_stock import Stock
from libero_runtime.options import Option, run_with_options
from libero_runtime.sim.scene import Scene
from libero_runtime.suites import SUITES, TaskOptions, TaskSpec, over_tasks

REQUIRED = 0.99
_NOISE = 0.4
_NUM_REST_STEPS = 10


@dataclass(frozen=True)
class Ending:
    """How one episode ended on both sides."""

    task: str
    init_index: int
    ours: bool
    stock: bool

    @property
    def alike(self) -> bool:
        return self.ours == self.stock


def check_task(task: TaskSpec, *, num_episodes: int) -> list[Ending]:
    """Episodes of a task, from its first initial states."""
    scene, stock = Scene(task, image_size=16), Stock(task)
    endings = []
    for index in range(num_episodes):
        scene.load(stock.settle(init_index=index, seed=0))
        noisy = index % 2 == 1
        options = EpisodeOptions(
            noise=_NOISE if noisy else 0.0,
            record="executed",
            max_steps=MAX_STEPS[task.suite],
            max_grasps=1 if noisy else 3,
        )
        actions: list[NDArray[np.float64]] = []
        success = play(scene, options, np.random.default_rng(index), watch=actions.append).success
        actions_TA = np.array(actions)
        rest = np.zeros((_NUM_REST_STEPS, 7))
        rest[:, 6] = actions_TA[-1, 6]
        stock_T = stock.run(np.concatenate([actions_TA, rest]) if success else actions_TA)
        endings.append(Ending(f"{task.suite} {task.task_id}", index, success, bool(stock_T.any())))
    scene.close()
    stock.close()
    return endings


@dataclass(frozen=True, kw_only=True)
class Options(TaskOptions):
    """What is compared."""

    episodes: Annotated[int, Option("per task, from its 50 initial states in order", least=1, most=50)] = 10
    jobs: Annotated[int, Option("tasks checked at the same time", least=1)] = 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Check the asked tasks, print a line for each and the share that is alike."""
    return run_with_options(Options, _check_tasks, arguments, description=__doc__)


def _check_tasks(options: Options) -> int:
    if not set(options.suites) <= set(SUITES):
        raise OptionError(f"the expert plays {', '.join(SUITES)}; given --suites {','.join(options.suites)}")
    tasks = options.chosen()
    alike: list[bool] = []
    sys.stdout.write("| suite and task   | alike   | succeed here | in stock |\n|---|---|---|---|\n")
    for endings in over_tasks(partial(check_task, num_episodes=options.episodes), tasks, options.jobs):
        alike += [ending.alike for ending in endings]
        differing = ", ".join(str(ending.init_index) for ending in endings if not ending.alike)
        sys.stdout.write(
            f"| {endings[0].task:<16} | {sum(ending.alike for ending in endings)} of {len(endings)} | "
            f"{sum(ending.ours for ending in endings)} | {sum(ending.stock for ending in endings)} |"
            + (f" differ from initial states {differing}" if differing else "")
            + "\n"
        )
        sys.stdout.flush()
    share = float(np.mean(alike))
    sys.stdout.write(f"{sum(alike)} of {len(alike)} episodes end alike ({share:.1%}; required: {REQUIRED:.0%})\n")
    return 0 if share >= REQUIRED else 1


if __name__ == "__main__":
    raise SystemExit(main())
