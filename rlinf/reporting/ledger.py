"""The ledger: every evaluation of an experiment, one JSON line each, and the success matrix that follows from it."""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from rlinf.reporting import ReportingError
from rlinf.reporting.jsonlines import append_record, read_records
from rlinf.reporting.metrics import SuccessMatrix
from rlinf.run_layout import BASE_ROW, Checkpoint, same_checkpoint, step_of


@dataclass(frozen=True, kw_only=True)
class EvaluatedPolicy:
    """Whose evaluation it is.

    ``row`` says which row of the success matrix it is: ``base``, ``task_<k>`` after task k was learnt (``learnt_tasks``
    lists all tasks learnt so far, in order, k last), or ``tasks_<a>_<b>...`` when several were learnt together.
    ``learnt_suite`` is the suite whose tasks were learnt where another one is evaluated, such as a perturbation of it
    ("": the same): shown beside the success matrix, and never part of it. ``lora_scale`` is what the adapter was scaled
    by and ``previous_coeff`` what earlier adapters were merged into the base with (None: nothing was merged). ``probe``
    marks a policy changed for the evaluation only, such as another LoRA scale: it belongs to a curve over scales and
    never to the success matrix.
    """

    method: str
    row: str
    learnt_tasks: tuple[int, ...]
    learnt_suite: str = ""
    checkpoint: str
    lora_scale: float = 1.0
    previous_coeff: float | None = None
    probe: bool = False


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What an evaluation measured.

    ``success`` maps task ids to success rates (success at any point of the episode), ``episodes`` to episode counts,
    ``init_states`` to the initial states played (``"0-49"``). ``mean_return`` is in reward units, ``mean_episode_len``
    in environment steps. ``videos`` are paths relative to the ledger's folder.
    """

    success: dict[int, float]
    episodes: dict[int, int]
    success_once: float
    success_at_end: float
    mean_return: float
    mean_episode_len: float
    wall_seconds: float
    videos: tuple[str, ...] = ()
    init_states: dict[int, str] = field(default_factory=dict)

    def metrics(self, group: str = "env_info") -> dict[str, float]:
        """The dictionary of the user's document."""
        values: dict[str, float] = {}
        for task in sorted(self.success):
            values[f"eval/{group}/task_{task}_success"] = self.success[task]
            values[f"eval/{group}/task_{task}_success_total"] = float(self.episodes[task])
        values[f"eval/{group}/success_once"] = self.success_once
        values[f"eval/{group}/success_at_end"] = self.success_at_end
        values[f"eval/{group}/return"] = self.mean_return
        values[f"eval/{group}/episode_len"] = self.mean_episode_len
        return values


@dataclass(frozen=True, kw_only=True)
class EvaluationRecord(EvaluatedPolicy, Outcome):
    """One evaluation of one policy over the tasks of a suite: a line of the ledger.

    ``time`` is UTC in ISO format, ``decoding`` ``sample`` or ``greedy``. Fields that came later have defaults, so that
    older lines can still be read.
    """

    seed: int
    suite: str
    temperature: float
    assets: str
    config_hash: str
    versions: dict[str, str]
    time: str
    decoding: str = ""

    def __post_init__(self) -> None:
        rates = (*self.success.values(), self.success_once, self.success_at_end)
        if not self.success or not all(0 <= rate <= 1 for rate in rates):
            raise ReportingError(f"success must be rates in 0..1 of at least one task and no NaN, given {rates}")
        if self.episodes.keys() != self.success.keys() or min(self.episodes.values()) < 1:
            tasks = sorted(self.success)
            raise ReportingError(
                f"episodes must be a positive count for each of the tasks {tasks}, given {self.episodes}"
            )
        for name in ("mean_return", "mean_episode_len", "temperature", "wall_seconds", "lora_scale"):
            if not math.isfinite(getattr(self, name)):
                raise ReportingError(f"{name} must be a finite number, given {getattr(self, name)}")
        added = row_tasks(self.row)
        if self.learnt_tasks[len(self.learnt_tasks) - len(added) :] != added or (self.learnt_tasks and not added):
            raise ReportingError(f"row '{self.row}' must end its learnt_tasks with {added}, given {self.learnt_tasks}")
        if len(set(self.learnt_tasks)) < len(self.learnt_tasks):
            raise ReportingError(f"learnt_tasks must hold no repeats, given {self.learnt_tasks}")

    @property
    def is_further(self) -> bool:
        """Evaluated on another suite than the one that was learnt."""
        return self.learnt_suite not in ("", self.suite)

    @property
    def decoding_name(self) -> str:
        """Greedy, or sampled with its temperature; older lines tell by the temperature alone."""
        return f"sampled at temperature {self.temperature:g}" if self.temperature > 0 else "greedy"


def utc_now() -> str:
    """The time in the ledger's format: UTC, ISO 8601, whole seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def row_tasks(row: str) -> tuple[int, ...]:
    """Tasks that a row adds: ``base`` none, ``task_3`` (3,), ``tasks_0_2`` (0, 2)."""
    if row == BASE_ROW:
        return ()
    match = re.fullmatch(r"task_(\d+)|tasks_(\d+(?:_\d+)+)", row)
    if match is None:
        raise ReportingError(f"row must be 'base', 'task_<k>' or 'tasks_<a>_<b>...', given '{row}'")
    return tuple(int(task) for task in (match[1] or match[2]).split("_"))


def append(path: Path, record: EvaluationRecord) -> None:
    """Add one record; safe while other processes append to the same file."""
    append_record(path, record)


def read(path: Path) -> list[EvaluationRecord]:
    """All records in the order they were written; none where nothing was evaluated yet."""
    return read_records(path, EvaluationRecord)


def rows(records: Sequence[EvaluationRecord]) -> list[EvaluationRecord]:
    """One record for each set of learnt tasks, in the order of learning; probes are left out.

    Of several, the one of the latest checkpoint counts; of those the one over the most tasks; of those the last. So
    neither looking at an earlier checkpoint nor trying out a single task changes a result.
    """

    def rank(record: EvaluationRecord) -> tuple[int, int]:
        return step_of(record.checkpoint), len(record.success)

    best: dict[tuple[int, ...], EvaluationRecord] = {}
    for record in records:
        if record.probe:
            continue
        other = best.get(record.learnt_tasks)
        if other is None or rank(record) >= rank(other):
            best[record.learnt_tasks] = record
    return sorted(best.values(), key=lambda record: len(record.learnt_tasks))


def not_evaluated(
    records: Iterable[EvaluationRecord],
    suites: Sequence[str],
    *,
    method: str,
    seed: int,
    row: str,
    checkpoint: Checkpoint | None = None,
    temperatures: Sequence[float] = (),
) -> tuple[str, ...]:
    """Those of ``suites`` on which a row of the success matrix is still to be evaluated.

    checkpoint: what the row is of; None: the base model. temperatures: at which it has to be; none: at any.
    """
    found = [
        one
        for one in records
        if (one.method, one.seed, one.row) == (method, seed, row)
        and not one.probe
        and (checkpoint is None or same_checkpoint(one.checkpoint, checkpoint.short_name))
    ]
    if temperatures:
        done = [{one.suite for one in found if one.temperature == temperature} for temperature in temperatures]
        return tuple(suite for suite in suites if not all(suite in there for there in done))
    return tuple(suite for suite in suites if suite not in {one.suite for one in found})


def success_matrix(records: Sequence[EvaluationRecord]) -> SuccessMatrix:
    """The success matrix of one run: base first, then one row per stage in the order of learning.

    Of several records of one row, ``rows`` says which counts. Its columns are the tasks that all rows have. The records
    share method, seed, suite, temperature and assets.
    """
    chosen = rows(records)
    if not chosen:
        raise ReportingError("the only evaluations are of other LoRA scales")
    before: tuple[int, ...] = ()
    stages = []
    for record in chosen:
        stages.append(row_tasks(record.row))
        if before + stages[-1] != record.learnt_tasks:
            raise ReportingError(
                f"row '{record.row}' of '{record.method}' seed {record.seed} has learnt {list(record.learnt_tasks)}, "
                f"but the row before it {list(before)}: an evaluation is missing or two task orders are mixed"
            )
        before = record.learnt_tasks
    tasks = sorted(set.intersection(*(set(record.success) for record in chosen)))
    if not tasks:
        raise ReportingError("no task was evaluated in every row")
    return SuccessMatrix(
        tasks=tuple(tasks),
        stages=tuple(stages),
        success_RK=np.array([[record.success[task] for task in tasks] for record in chosen], dtype=np.float64),
        episodes_RK=np.array([[record.episodes[task] for task in tasks] for record in chosen], dtype=np.int64),
    )
