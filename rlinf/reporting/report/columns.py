"""The metrics that tables show: one list for HTML, LaTeX and CSV, so that they cannot tell different stories."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from rlinf.custom import metrics
from rlinf.custom.metrics import Estimate, SuccessMatrix
from rlinf.reporting.report.collect import Experiment
from rlinf.reporting.report.learning_curves import libero_curves

COMPARED = ("base", "avg", "plasticity", "nbt", "fwt", "zero_shot")  # the most told by the fewest numbers

Measured = Estimate | float | None
OfMatrix = Callable[[SuccessMatrix], Measured]
OfCurves = Callable[[SuccessMatrix, Mapping[int, Sequence[float]]], Measured]


@dataclass(frozen=True, kw_only=True)
class Column:
    """One metric: its names, how it is measured, whether more (+1) or less (-1) is better.

    ``is_difference`` metrics are shown in points with a sign, others in percent. ``in_comparison`` columns stand in the
    side-by-side table and in LaTeX; CSV and the details hold all.
    """

    key: str
    name: str
    measure: Callable[[Experiment], Measured]
    better: int
    words: str
    is_difference: bool = False
    in_comparison: bool = False


def _rate(key: str, name: str, of: OfMatrix, words: str, *, better: int = 1) -> Column:
    """A success rate."""
    return Column(key=key, name=name, measure=_matrix(of), better=better, words=words, in_comparison=key in COMPARED)


def _change(key: str, name: str, of: OfMatrix, words: str, *, better: int = 1) -> Column:
    """A difference of success rates."""
    return replace(_rate(key, name, of, words, better=better), is_difference=True)


def _curve(key: str, name: str, of: OfCurves, words: str) -> Column:
    """A success rate over whole learning curves."""
    words = f"{words}; needs runner.val_check_interval (arXiv:2306.03310)"
    return Column(key=key, name=name, measure=_curves(of), better=1, words=words)


def _matrix(of: OfMatrix) -> Callable[[Experiment], Measured]:
    return lambda experiment: None if experiment.matrix is None else of(experiment.matrix)


def _curves(of: OfCurves) -> Callable[[Experiment], Measured]:
    def measure(experiment: Experiment) -> Measured:
        curves = libero_curves(experiment)
        return None if curves is None or experiment.matrix is None else of(experiment.matrix, curves)

    return measure


COLUMNS: tuple[Column, ...] = (
    _rate("base", "Base", metrics.base_success, "base model on the tasks learnt later", better=0),
    _rate("avg", "AVG", metrics.average_success, "mean success on the learnt tasks after the last one"),
    _change("improvement", "Improvement", metrics.improvement, "AVG minus the base model on the same tasks"),
    _rate("plasticity", "Plasticity", metrics.plasticity, "mean success on each task right after learning it"),
    _change(
        "nbt",
        "NBT",
        metrics.nbt_final,
        "forgetting: right after learning minus at the end (arXiv:2603.11653)",
        better=-1,
    ),
    _change(
        "nbt_libero",
        "NBT (LIBERO)",
        metrics.nbt_libero,
        "right after learning minus the mean over all later rows (arXiv:2306.03310)",
        better=-1,
    ),
    _change("bwt", "BWT", metrics.backward_transfer, "the negative of NBT (GEM, arXiv:1706.08840)"),
    _change("fwt", "FWT", metrics.forward_transfer, "just before a task’s own training minus base (GEM)"),
    _change(
        "forgetting",
        "Forgetting",
        metrics.forgetting,
        "best earlier success minus the final one (arXiv:1801.10112)",
        better=-1,
    ),
    _change(
        "forgetting_mammoth",
        "Forgetting (Mammoth)",
        metrics.forgetting_mammoth,
        "best success since a task was learnt minus the final one; never below zero",
        better=-1,
    ),
    _rate("zero_shot", "Zero-shot", metrics.zero_shot_success, "mean final success on tasks never trained on"),
    _change(
        "zero_shot_change",
        "Zero-shot change",
        metrics.zero_shot_change,
        "Zero-shot minus the base model on these tasks",
    ),
    _curve(
        "libero_fwt",
        "FWT (LIBERO)",
        lambda matrix, curves: metrics.libero_forward_transfer(curves),
        "mean success while learning a task",
    ),
    _curve("auc", "AUC (LIBERO)", metrics.libero_auc, "FWT (LIBERO) and later success in one"),
)
