"""What training changed, one JSON line per checkpoint that was looked at (``python -m rlinf.cli.diagnose``)."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from rlinf.reporting.jsonlines import read_records


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """Of one checkpoint, against its base model: with adapters of earlier tasks that are merged beneath its own.

    method, suite, seed, learnt_tasks, checkpoint: as in ``ledger.EvaluationRecord``. effective_rank, relative_change:
    means over the weight matrices that changed (``rlinf.diagnostics.weight_change``). kl: by task, mean over tokens of
    ``KL(base || policy)`` in nats at ``temperature``, on ``frames`` frames of a demonstration; empty where none was
    given. fisher_energy: by task, on the same frames (``rlinf.diagnostics.fisher_energy``); empty where it was left
    out. time: UTC in ISO format.
    """

    method: str
    suite: str
    seed: int
    learnt_tasks: tuple[int, ...]
    checkpoint: str
    effective_rank: float
    relative_change: float
    temperature: float
    frames: int
    time: str
    kl: dict[int, float] = field(default_factory=dict)
    fisher_energy: dict[int, float] = field(default_factory=dict)


def read(path: Path) -> list[Diagnosis]:
    """All, in the order they were written; none where nothing was looked at."""
    return read_records(path, Diagnosis)


def by_checkpoint(diagnoses: Iterable[Diagnosis]) -> list[Diagnosis]:
    """One for each checkpoint, in the order of learning: of several the one that says most of tasks, of those the
    last."""
    best: dict[str, Diagnosis] = {}
    for one in diagnoses:
        other = best.get(one.checkpoint)
        if other is None or _extent(one) >= _extent(other):
            best[one.checkpoint] = one
    return sorted(best.values(), key=lambda one: len(one.learnt_tasks))


def _extent(diagnosis: Diagnosis) -> int:
    return len(diagnosis.kl) + len(diagnosis.fisher_energy)
