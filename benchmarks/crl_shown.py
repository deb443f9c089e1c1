"""What the finished cells of the results table show, as Markdown: the table, what training changed, a search."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from benchmarks.crl_cells import Cell
from benchmarks.crl_rows import ROWS, SUITES
from rlinf.reporting import ledger
from rlinf.reporting.diagnoses import Diagnosis
from rlinf.reporting.report import collect
from rlinf.reporting.report.collect import Experiment
from rlinf.reporting.report.columns import COLUMNS, Column, further_suites, suite_column
from rlinf.reporting.report.compare import MethodRuns
from rlinf.run_layout import LEDGER_FILE

SHOWN = ("base", "avg", "nbt", "fwt", "zero_shot")
OF_WEIGHTS = ("relative_change", "effective_rank")


@dataclass(frozen=True)
class Line:
    """A row's finished cells, evaluated at one temperature."""

    row: str
    temperature: float
    runs: MethodRuns

    @property
    def title(self) -> str:
        return ROWS[self.row].title

    @property
    def way(self) -> str:
        """How actions were chosen in evaluations."""
        return way(self.temperature)

    @property
    def diagnoses(self) -> list[Diagnosis]:
        """What training changed by the last task, of each seed that was looked at."""
        return [one.diagnoses[-1] for one in self.runs.experiments if one.diagnoses]

    @property
    def looked_at(self) -> Line | None:
        """Those of its cells that were diagnosed; None without any."""
        found = [one for one in self.runs.experiments if one.diagnoses]
        return replace(self, runs=MethodRuns.of(*found)) if found else None

    def values(self, key: str) -> list[float]:
        """A metric of each seed."""
        return _values(self.runs, next(one for one in COLUMNS if one.key == key))


def _values(runs: MethodRuns, column: Column) -> list[float]:
    measured = (column.measure(one) for one in runs.experiments)
    return [one if isinstance(one, float) else one.value for one in measured if one is not None]


def way(temperature: float) -> str:
    """How actions were chosen."""
    return "greedy" if temperature == 0 else f"sampled at {temperature:g}"


def lines_of(cells: Sequence[Cell]) -> list[Line]:
    """In the order of the rows, sampled before greedy."""
    found: dict[tuple[str, float], list[Experiment]] = {}
    for row in dict.fromkeys(cell.row for cell in cells):
        done = [cell for cell in cells if cell.row == row and cell.is_done]
        experiments = [one for one in collect([cell.out for cell in done]) if one.matrix] if done else []
        for one in sorted(experiments, key=lambda one: -one.records[-1].temperature):
            found.setdefault((row, one.records[-1].temperature), []).append(one)
    return [Line(row, temperature, MethodRuns.of(*runs)) for (row, temperature), runs in found.items()]


def table(suite: str, lines: Sequence[Line]) -> str:
    """A line per row and temperature in percent: the mean over seeds ± its standard error, or of a single seed the
    95 % interval of its evaluation episodes; success on LIBERO-PRO's suites where any row was evaluated there. How many
    seeds were, follows where that is not all."""
    suites = further_suites(one for line in lines for one in line.runs.experiments)
    columns = [column for key in SHOWN for column in COLUMNS if column.key == key]
    columns += [suite_column(one, suite) for one in suites]
    heads = ["", "evaluated", "seeds", *(column.name for column in columns)]
    first, *others = SUITES[suite].tasks
    shown = [[line.title, line.way, str(len(line.runs.seeds)), *_numbers(line.runs, columns)] for line in lines]
    return "\n".join([f"{suite}: tasks {first} to {others[-1]} in sequence", "", *_markdown(heads, shown, left=2)])


def _numbers(runs: MethodRuns, columns: Iterable[Column]) -> Iterable[str]:
    for column in columns:
        values, cell = _values(runs, column), runs.cell(column)
        of = f" (of {len(values)})" if 0 < len(values) < len(runs.seeds) else ""
        if len(values) > 1:
            yield f"{100 * np.mean(values):z.1f} ± {100 * standard_error(values):.1f}{of}"
        elif cell is None or cell.low is None or cell.high is None:
            yield "".join(f"{100 * value:.1f}{of}" for value in values)
        else:
            yield f"{100 * cell.value:z.1f} [{100 * cell.low:z.0f}, {100 * cell.high:z.0f}]{of}"


def standard_error(values: Sequence[float]) -> float:
    """Of the mean over seeds."""
    return float(np.std(values, ddof=1) / np.sqrt(len(values)))


def changes(lines: Sequence[Line]) -> str:
    """What training changed after each row's last task, means over its diagnosed seeds: relative change and effective
    rank of the weight matrices, KL from the base and Fisher energy on learnt and on held-out tasks. Empty where nobody
    looked."""
    shown = []
    for line in lines:
        last = line.diagnoses
        if last and line.temperature != 0:
            learnt = line.runs.matrices[0].learnt_tasks
            change, rank = (float(np.mean([getattr(one, name) for one in last])) for name in OF_WEIGHTS)
            numbers = [one for name in ("kl", "fisher_energy") for one in by_tasks(last, name, learnt)]
            split = ["" if np.isnan(one) else f"{one:.2g}" for one in numbers]  # where it was not asked for
            title = f"{line.title}: {ROWS[line.row].diagnosed}" if ROWS[line.row].diagnosed else line.title
            shown.append([title, str(len(last)), f"{100 * change:.1f} %", f"{rank:.0f}", *split])
    heads = ["", "seeds", "change of weights", "effective rank", "KL, learnt", "KL, held out"]
    return "\n".join(_markdown([*heads, "Fisher energy, learnt", "held out"], shown, left=1)) if shown else ""


def by_tasks(diagnoses: Sequence[Diagnosis], name: str, learnt: Sequence[int]) -> tuple[float, float]:
    """Means over the tasks that were learnt, and over the others."""
    values: tuple[list[float], list[float]] = ([], [])
    for one in diagnoses:
        for task, value in getattr(one, name).items():
            values[task not in learnt].append(value)
    learnt_mean, other_mean = (float(np.mean(part)) if part else float("nan") for part in values)
    return learnt_mean, other_mean


def search_table(suite: str, cells: Sequence[Cell]) -> str:
    """Success on the one task before and after learning it with each rate, sampled and greedy, in percent."""
    shown = []
    for cell in (cell for cell in cells if cell.is_done):
        for path in sorted(cell.out.rglob(LEDGER_FILE)):
            records = ledger.read(path)
            for temperature in sorted({record.temperature for record in records}, reverse=True):
                found = [100 * one.success_once for one in records if one.temperature == temperature]
                ends = f"{found[0]:.0f}", f"{found[-1]:.0f}"
                shown.append([ROWS[cell.row].title, cell.learning_rate, way(temperature), *ends])
    heads = ["", "learning rate", "evaluated", "before", "after"]
    return "\n".join([f"{suite}: task {SUITES[suite].search} alone", "", *_markdown(heads, shown, left=3)])


def _markdown(heads: Sequence[str], rows: Iterable[Sequence[str]], *, left: int) -> list[str]:
    """A table of which the first ``left`` columns are aligned left."""
    rule = "|" + "---|" * left + "---:|" * (len(heads) - left)
    return [_line(heads), rule, *map(_line, rows)]


def _line(fields: Sequence[str]) -> str:
    return "| " + " | ".join(fields) + " |"
