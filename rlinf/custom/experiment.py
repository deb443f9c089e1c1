"""What plans are made of: the experiment, its folders, and the steps that carry it out.

Layout, below the repository's root (or any other ``runner.logger.log_root``)::

    logs[_SUITE]/METHOD[/GROUP]/task_K_seedS/checkpoints/global_step_N/actor/   one PEFT adapter per saved epoch
    logs[_SUITE]/METHOD[/GROUP]/evaluations.jsonl                               one line per evaluation

A group is one experiment among several of a method, with a ledger of its own: an order of tasks by its RUN_ID, tasks
that are learnt together by their names (``tasks_0_2_4``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath

from libero_runtime.suites import standard_suite
from rlinf.custom.tasks import num_tasks_of, task_name

DEFAULT_LOG_ROOT = "logs"
DEFAULT_SUITE = "libero_spatial"  # its logs carry no suite in their name
DEFAULT_SEED = 1234
BASE_ROW = "base"


def results_root(log_root: str, suite: str) -> str:
    """The folder of all methods' results: the default one carries the suite's name, a chosen one is kept."""
    is_plain = log_root != DEFAULT_LOG_ROOT or suite == DEFAULT_SUITE
    return log_root if is_plain else f"{DEFAULT_LOG_ROOT}_{suite}"


def results_folder(root: str, method: str, stage: Sequence[int] | None, *, run_id: str | None = None) -> PurePath:
    """Where runs of one experiment and their ledger lie.

    stage: the tasks of a run; several (None: all) that are learnt together are an experiment of their own.
    """
    folder = PurePath(root, method)
    is_joint = stage is None or len(stage) > 1
    group = run_id or (task_name(stage) if is_joint else None)
    return folder / group if group else folder


def run_name(stage: Sequence[int] | None, seed: int) -> str:
    """The folder of one run: ``task_3_seed1234``."""
    return f"{task_name(stage)}_seed{seed}"


@dataclass(frozen=True)
class Experiment:
    """What planning needs of the composed configuration."""

    config_name: str
    suite: str
    max_epochs: int
    log_root: str = DEFAULT_LOG_ROOT
    eval_before: bool | None = None  # what the user asks for; None: the planner decides
    eval_after: bool | None = None
    first_task: int = 0  # of the published sequences on this suite
    results_name: str = "sequential"  # of the configured method
    eval_suites: tuple[str, ...] = ()  # further ones, evaluated with every row of the success matrix
    merges: bool = False  # every task learns a fresh adapter on top of the earlier ones, merged into the base

    @property
    def suites(self) -> tuple[str, ...]:
        """What is evaluated in each row."""
        return (self.suite, *self.eval_suites)

    @property
    def num_tasks(self) -> int:
        return num_tasks_of(self.suite)

    @property
    def eval_root(self) -> str:
        """The same for evaluations: a perturbed suite's lie with those of the suite that was learnt."""
        return results_root(self.log_root, standard_suite(self.suite))

    @property
    def root(self) -> str:
        """The folder of all methods' results."""
        return results_root(self.log_root, self.suite)


@dataclass(frozen=True)
class Step:
    """One command of a plan. Paths are relative to the repository where they lie inside it."""

    title: str
    folder: str
    start: str | None  # actor folder; None is the base model or, in weight merge, what ``merged`` makes of it
    result: str | None  # actor folder that exists when the command has done its work; None for an evaluation
    command: tuple[str, ...]  # script and arguments, without the interpreter
    todo: tuple[str, ...]  # what is left to do, in words; empty: skipped
    notes: tuple[str, ...] = ()
    merged: tuple[str, ...] = ()  # actor folders that are merged into the base model
