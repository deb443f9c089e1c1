"""The comparison as LaTeX (booktabs) and CSV: the same methods and metrics as on the page."""

import csv
import io
from collections.abc import Sequence

from rlinf.reporting import ReportingError
from rlinf.reporting.metrics import Estimate
from rlinf.reporting.report.collect import Experiment
from rlinf.reporting.report.columns import COLUMNS, further_suites, stage_columns
from rlinf.reporting.report.compare import LEFT_OUT, Comparison, MethodRuns, comparisons, left_out
from rlinf.reporting.report.names import method_name

_ESCAPES = str.maketrans({
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", "–": "--", "×": r"$\times$", "−": "$-$",
})  # fmt: skip
_FIT = r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}"  # no wider than the page, never enlarged
_ARROWS = {1: r" $\uparrow$", -1: r" $\downarrow$", 0: ""}


def latex(experiments: Sequence[Experiment]) -> str:
    """One ``table`` per group of comparable methods: percent and points with one decimal, the best mean bold."""
    groups = _comparisons(experiments)
    tables = [_methods_table(group, number) for number, group in enumerate(groups, start=1)]
    tables += [_stages_table(one) for group in groups for one in group.methods if further_suites(one.experiments)]
    missing = "; ".join(f"{one.name}: {why}" for one, why in left_out(experiments))
    note = f"\n\\noindent{{\\small {_escape(f'{LEFT_OUT}: {missing}')}.}}\n" if missing else ""
    return "% Needs \\usepackage{booktabs} and \\usepackage{graphicx}.\n" + "\n".join(tables) + note


def _methods_table(group: Comparison, number: int) -> str:
    columns = [column for column in group.columns if any(one.cell(column) is not None for one in group.methods)]

    def row(method: MethodRuns, cells: Sequence[str]) -> list[str]:
        return [_escape(method.name), str(len(method.seeds)), *cells]

    learning: list[list[str]] = []
    others: list[list[str]] = []
    for one in group.methods:
        cells = [_latex_cell(one.cell(column), group.best(column)) for column in columns]
        (others if one.is_joint else learning).append(row(one, cells))
    others += [
        row(one, [_latex_cell(group.reference_cell(one, column), None) for column in columns])
        for one in group.references
    ]
    caption = (
        f"{_escape(group.title)}. Success rates in percent, differences in points, with 95\\% confidence intervals: "
        r"$\pm$ over seeds (Student's $t$), [low, high] over the evaluation episodes of a single seed. "
        "Bold: best mean, joint training left out."
    )
    head = ["Method", "Seeds", *(_escape(column.name) + _ARROWS[column.better] for column in columns)]
    return _table(caption, head, [part for part in (learning, others) if part], label=f"tab:continual-{number}")


def _stages_table(method: MethodRuns) -> str:
    """Success on further suites after each stage of one method."""
    suites, rows = method.stage_table()
    caption = f"{_escape(f'{method.name} on {suites[0]}')}: mean success in percent on the suite that is learnt and on "
    caption += r"LIBERO-PRO's changes of its tasks, after each stage, with 95\% confidence intervals."
    cells = [[_escape(name), *(_latex_cell(method.cell(one), None) for one in columns)] for name, columns in rows]
    return _table(caption, ["Policy", *map(_escape, suites)], [cells])


def _table(caption: str, head: Sequence[str], parts: Sequence[Sequence[Sequence[str]]], *, label: str = "") -> str:
    """A ``table`` whose parts are kept apart by rules."""
    bodies = ["\n".join(f"    {' & '.join(row)} \\\\" for row in part) for part in parts]
    body = "\n    \\midrule\n".join([f"    {' & '.join(head)} \\\\", *bodies])
    return (
        f"\\begin{{table}}[t]\n  \\centering\n  \\small\n  \\caption{{{caption}}}\n"
        + (f"  \\label{{{label}}}\n" if label else "")
        + f"  \\smallskip\n  {_FIT}{{%\n  \\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}\n    \\toprule\n"
        f"{body}\n    \\bottomrule\n  \\end{{tabular}}}}\n\\end{{table}}\n"
    )


def _latex_cell(cell: Estimate | None, best: float | None) -> str:
    if cell is None:
        return "--"
    text = _number(cell.value)
    if best is not None and text == _number(best):
        text = rf"\textbf{{{text}}}"
    if cell.low is None or cell.high is None:
        return text
    if cell.seeds > 1:
        return rf"{text} {{\scriptsize $\pm$ {100 * (cell.high - cell.low) / 2:.1f}}}"
    return rf"{text} {{\scriptsize [{_number(cell.low)}, {_number(cell.high)}]}}"


def _number(rate: float) -> str:
    return f"{100 * rate:z.1f}".replace("-", "$-$")


def _escape(text: str) -> str:
    return text.translate(_ESCAPES)


def csv_table(experiments: Sequence[Experiment]) -> str:
    """One row per method (``row`` is ``mean``) and one per ``seed``; all metrics as fractions with their intervals.
    ``SUITE_stage_N`` is the mean success on a further suite after the N-th stage of learning, 0 the first row.

    A ``reference`` learns nothing: ``avg`` and ``zero_shot`` are its success on the same tasks. An experiment that is
    ``left out`` has no numbers; its ``note`` says why.
    """
    columns = (*COLUMNS, *stage_columns(experiments))
    numbers = [column.key + end for column in columns for end in ("", "_low", "_high")]
    labels = ["suite", "learnt_tasks", "decoding", "assets", "line", "method", "row", "seeds", "episodes"]
    text = io.StringIO()
    writer = csv.DictWriter(text, [*labels, *numbers, "note"], restval="", lineterminator="\n")
    writer.writeheader()

    def write(group: Comparison, name: str, row: str, runs: MethodRuns, cells: Sequence[Estimate | None]) -> None:
        first, record = runs.first, runs.first.records[-1]
        entry: dict[str, object] = {
            "suite": first.suite,
            "learnt_tasks": _join(group.methods[0].matrices[0].learnt_tasks),
            "decoding": record.decoding_name,
            "assets": record.assets,
            "line": name,
            "method": first.method,
            "row": row,
            "seeds": _join(runs.seeds),
            "episodes": int(sum(matrix.episodes_RK.sum() for matrix in runs.matrices)),
        }
        for column, cell in zip(columns, cells, strict=True):
            if cell is not None:
                ends = {"": cell.value, "_low": cell.low, "_high": cell.high}
                entry |= {column.key + end: f"{value:.6g}" for end, value in ends.items() if value is not None}
        writer.writerow(entry)

    for group in _comparisons(experiments):
        for method in group.methods:
            write(group, method.name, "mean", method, [method.cell(column) for column in columns])
            for one in map(MethodRuns.of, method.experiments):
                write(group, method.name, "seed", one, [one.cell(column) for column in columns])
        for one in group.references:
            write(group, one.name, "reference", one, [group.reference_cell(one, column) for column in columns])
    for experiment, why in left_out(experiments):
        told = {"suite": experiment.suite, "line": method_name(experiment.method), "method": experiment.method}
        writer.writerow({**told, "row": "left out", "seeds": experiment.seed, "note": why})
    return text.getvalue()


def _join(numbers: Sequence[int]) -> str:
    return " ".join(map(str, numbers))


def _comparisons(experiments: Sequence[Experiment]) -> list[Comparison]:
    if not (groups := comparisons(experiments)):
        problems = "; ".join(f"{one.folder}: {one.matrix_problem}" for one in experiments)
        raise ReportingError(f"there is no success matrix to make a table of ({problems})")
    return groups
