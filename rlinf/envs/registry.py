"""The table of simulators, and what is known of their tasks without starting one."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from libero_runtime.commands import OptionError, parse_numbers
from rlinf.config import ConfigError
from rlinf.config.schema import EnvConfig
from rlinf.envs.vector_env import TaskInfo, VectorEnv


@dataclass(frozen=True)
class Simulator:
    """How to list the tasks of a suite, to make an environment, and to say whether a suite's files are the official
    ones, which is recorded with every result."""

    tasks: Callable[[str], tuple[TaskInfo, ...]]
    make: Callable[[EnvConfig, int | None], VectorEnv]
    asset_kind: Callable[[str], str]
    prepare: Callable[[], None]


def _libero() -> Simulator:
    from libero_runtime.suites import suite_asset_kind
    from rlinf.envs.libero import adapter

    return Simulator(adapter.tasks, adapter.LiberoEnv, suite_asset_kind, adapter.prepare)


SIMULATORS: dict[str, Callable[[], Simulator]] = {"libero": _libero}
"""Name -> a function that imports the simulator only when it is used."""


def simulator(name: str) -> Simulator:
    """The simulator of that name.

    Raises:
        ConfigError: there is none.
    """
    if name not in SIMULATORS:
        raise ConfigError(f"env.simulator={name} is not known; expected one of: {', '.join(SIMULATORS)}")
    return SIMULATORS[name]()


def make_env(config: EnvConfig, drawing_gpu: int | None = None) -> VectorEnv:
    """One process's environments. drawing_gpu: the machine's GPU to draw on, for simulators that draw on one."""
    return simulator(config.simulator).make(config, drawing_gpu)


def suite_tasks(config: EnvConfig) -> tuple[TaskInfo, ...]:
    """The tasks of the configured suite."""
    return simulator(config.simulator).tasks(config.suite)


def playable_tasks(config: EnvConfig, task_ids: Sequence[int] | None) -> list[int]:
    """Of these tasks (None: all of the suite) those that can be played.

    Raises:
        ConfigError: none is left.
    """
    infos = suite_tasks(config)
    asked = range(len(infos)) if task_ids is None else task_ids
    left = [task for task in asked if not infos[task].fault]
    if not left:
        raise ConfigError(f"{config.suite}: none of the tasks {list(asked)} can be played: {infos[asked[0]].fault}")
    return left


def init_states(config: EnvConfig, split: Literal["train", "eval"], task_ids: Sequence[int]) -> list[Sequence[int]]:
    """Of each task, the initial states to play: those that are configured, else all.

    Raises:
        ConfigError: they cannot be read, or a task has fewer.
    """
    text, infos = getattr(config, split).init_states, suite_tasks(config)
    if text is None:
        return [range(infos[task].num_init_states) for task in task_ids]
    key = f"env.{split}.init_states"
    try:
        chosen = parse_numbers(text)
    except OptionError as error:
        raise ConfigError(f"{key}: {error}") from None
    for task in task_ids:
        if max(chosen) >= infos[task].num_init_states:
            raise ConfigError(
                f"{key}={text} names state {max(chosen)}, but task {task} of {config.suite} has "
                f"{infos[task].num_init_states}: 0 to {infos[task].num_init_states - 1}"
            )
    return [chosen] * len(task_ids)
