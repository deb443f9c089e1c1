"""What training changed, as tables show it: of the weights, and of what the policy would do."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from rlinf.reporting.diagnoses import Diagnosis
from rlinf.reporting.metrics import Estimate, over_seeds
from rlinf.reporting.report.compare import MethodRuns
from rlinf.reporting.report.names import row_name


@dataclass(frozen=True)
class Measure:
    """One number of a diagnosis. of: given also the tasks that are held out of the whole sequence; None: not known."""

    name: str
    definition: str
    of: Callable[[Diagnosis, Sequence[int]], float | None]
    form: str

    def show(self, value: float) -> str:
        """A value as the page writes it."""
        return format(value, self.form)


def _mean(values: Mapping[int, float], tasks: Sequence[int]) -> float | None:
    found = [values[task] for task in tasks if task in values]
    return sum(found) / len(found) if found else None


MEASURES = (
    Measure(
        "Effective rank", "directions of a weight matrix’s change, counted by their weight",
        lambda one, _: one.effective_rank, ".1f",
    ),
    Measure(
        "Relative change", "norm of a weight matrix’s change, relative to the weight’s",
        lambda one, _: one.relative_change, ".2%",
    ),
    Measure(
        "KL, learnt tasks", "KL(base || policy) per token, nats, on the expert’s frames of the tasks learnt so far",
        lambda one, _: _mean(one.kl, one.learnt_tasks), ".2g",
    ),
    Measure(
        "KL, held-out tasks", "the same on tasks that the sequence never learns",
        lambda one, held_out: _mean(one.kl, held_out), ".2g",
    ),
    Measure(
        "Fisher energy, learnt tasks",
        "1 like a change of random direction, below 1 away from the weights that the base model’s behaviour on these "
        "tasks depends on, above 1 towards them; not the number of that name in arXiv:2603.11653",
        lambda one, _: _mean(one.fisher_energy, one.learnt_tasks), ".2f",
    ),
    Measure(
        "Fisher energy, held-out tasks", "the same on tasks that the sequence never learns",
        lambda one, held_out: _mean(one.fisher_energy, held_out), ".2f",
    ),
)  # fmt: skip


def change_rows(method: MethodRuns) -> list[tuple[str, int, list[Estimate | None]]]:
    """For each stage of which any seed was looked at, in the order of learning: its policy's name, how many seeds these
    are, and a cell for each of ``MEASURES``."""
    matrix, rows = method.matrices[0], []
    for number, stage in enumerate(matrix.stages):
        learnt = matrix.learnt_by(number)
        found = [seen for one in method.experiments for seen in one.diagnoses if seen.learnt_tasks == learnt]
        if found:
            cells = [over_seeds([one.of(seen, matrix.held_out_tasks) for seen in found]) for one in MEASURES]
            rows.append((row_name(stage), len(found), cells))
    return rows
