"""The table of simulators, and what is known of their tasks without starting one."""

from collections.abc import Callable
from dataclasses import dataclass

from rlinf.config import ConfigError
from rlinf.config.schema import EnvConfig
from rlinf.envs.vector_env import VectorEnv


@dataclass(frozen=True)
class TaskInfo:
    """A task of a suite and how many initial states it offers."""

    task_id: int
    name: str
    language: str
    num_init_states: int


@dataclass(frozen=True)
class Simulator:
    """How to list the tasks of a suite, to make an environment, and to name what its results depend on."""

    tasks: Callable[[str], tuple[TaskInfo, ...]]
    make: Callable[[EnvConfig, int | None], VectorEnv]
    asset_kind: Callable[[str], str]
    prepare: Callable[[], None]


def _libero() -> Simulator:
    from rlinf.envs.libero import adapter

    return Simulator(adapter.tasks, adapter.LiberoEnv, adapter.asset_kind, adapter.prepare)


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
