"""Tasks: how many a suite has, how they are written on a command line, and what folders of theirs are called."""

from __future__ import annotations

from collections.abc import Sequence

from libero_runtime.suites import suite_names
from rlinf.custom.checkpoint_paths import SequenceError

NUM_TASKS = {suite: 90 if suite == "libero_90" else 10 for suite in suite_names()}


def num_tasks_of(suite: str) -> int:
    """How many tasks a suite has."""
    if suite not in NUM_TASKS:
        raise SequenceError(f"unknown suite {suite!r}; known: {', '.join(NUM_TASKS)}")
    return NUM_TASKS[suite]


def parse_task_range(text: str, *, num_tasks: int) -> tuple[int, ...]:
    """``"3"`` is task 3, ``"0,4"`` are tasks 0 to 4 in order."""
    ids = _task_ids(text, expected='one task id such as "0", or a first and a last one such as "0,4"')
    if len(ids) > 2:
        raise SequenceError(
            f'TASK_ID_OR_RANGE={text!r} has {len(ids)} numbers; expected one task id such as "0", or a first and a '
            'last one such as "0,4" for tasks 0 to 4'
        )
    _check_task_ids(ids, text, num_tasks=num_tasks)
    first, last = ids[0], ids[-1]
    if first > last:
        raise SequenceError(
            f'TASK_ID_OR_RANGE={text!r} is reversed; write "{last},{first}" for tasks {last} to {first}, in that order'
        )
    return tuple(range(first, last + 1))


def parse_task_list(text: str, *, num_tasks: int) -> tuple[int, ...]:
    """``"4,0,2"`` are exactly these tasks in this order."""
    ids = _task_ids(text, expected='task ids such as "0,2,4"')
    _check_task_ids(ids, text, num_tasks=num_tasks)
    if len(set(ids)) < len(ids):
        raise SequenceError(f"TASK_IDS={text!r} names a task twice; every task is learnt once")
    return ids


def parse_count(text: str, *, name: str, minimum: int) -> int:
    """A whole number of at least ``minimum``."""
    try:
        number = int(text)
    except ValueError:
        raise SequenceError(f"{name} must be a whole number, got {text!r}") from None
    if number < minimum:
        raise SequenceError(f"{name} must be at least {minimum}, got {number}")
    return number


def _task_ids(text: str, *, expected: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.removeprefix("-").isascii() and part.removeprefix("-").isdigit() for part in parts):
        raise SequenceError(f"cannot read the tasks {text!r}; expected {expected}")
    return tuple(int(part) for part in parts)


def _check_task_ids(ids: Sequence[int], text: str, *, num_tasks: int) -> None:
    outside = [task_id for task_id in ids if not 0 <= task_id < num_tasks]
    if outside:
        raise SequenceError(
            f"task {outside[0]} (in {text!r}) is out of range: the suite has tasks 0 to {num_tasks - 1}"
        )


def task_name(task_ids: Sequence[int] | None) -> str:
    """``task_3``; ``tasks_0_2_4`` for tasks that are learnt together, ``tasks_all`` for all of a suite."""
    if task_ids is None:
        return "tasks_all"
    prefix = "task" if len(task_ids) == 1 else "tasks"
    return f"{prefix}_{'_'.join(str(task_id) for task_id in task_ids)}"
