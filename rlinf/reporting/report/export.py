"""The comparison as LaTeX (booktabs) and CSV: the same lines and metrics as on the page."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from rlinf.reporting.jsonlines import write_whole
from rlinf.reporting.report.collect import Experiment, ReportError
from rlinf.reporting.report.columns import COLUMNS
from rlinf.reporting.report.compare import compared
from rlinf.reporting.report.generalisation import stage_columns, stage_table, suites_of
from rlinf.reporting.report.lines import LEFT_OUT, Cell, Line, Setting, left_out, settings_of
from rlinf.reporting.report.words import method_name

_ESCAPES = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", "–": "--", "×": r"$\times$", "−": "$-$",
}  # fmt: skip
_FIT = r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}"  # no wider than the page, never enlarged
_ARROWS = {1: r" $\uparrow$", -1: r" $\downarrow$", 0: ""}


def latex(experiments: Sequence[Experiment]) -> str:
    """One ``table`` per group of comparable methods: percent and points with one decimal, the best mean bold."""
    settings = _settings(experiments)
    tables = [_latex_table(setting, number) for number, setting in enumerate(settings, start=1)]
    tables += [_stages_table(line) for setting in settings for line in setting.lines if suites_of(line.experiments)]
    missing = "; ".join(f"{one.name}: {why}" for one, why in left_out(experiments))
    note = f"\n\\noindent{{\\small {_escape(f'{LEFT_OUT}: {missing}')}.}}\n" if missing else ""
    return "% Needs \\usepackage{booktabs} and \\usepackage{graphicx}.\n" + "\n".join(tables) + note


def _latex_table(setting: Setting, number: int) -> str:
    columns = [column for column in compared(setting) if any(line.cell(column) is not None for line in setting.lines)]
    best = {column.key: setting.best(column) for column in columns}
    head = " & ".join(["Method", "Seeds", *(_escape(column.name) + _ARROWS[column.better] for column in columns)])
    rows: list[str] = []
    others: list[str] = []
    for line in setting.lines:
        cells = [_latex_cell(line.cell(column), best[column.key]) for column in columns]
        (others if line.is_joint else rows).append(_latex_row(line, cells))
    for line in setting.references:
        cells = [_latex_cell(setting.reference_cell(line, column), None) for column in columns]
        others.append(_latex_row(line, cells))
    if rows and others:
        rows.append(r"    \midrule")
    caption = (
        f"{_escape(setting.title)}. Success rates in percent, differences in points, with 95\\% confidence intervals: "
        r"$\pm$ over seeds (Student's $t$), [low, high] over the evaluation episodes of a single seed. "
        "Bold: best mean, joint training left out."
    )
    body = "\n".join(rows + others)
    return (
        "\\begin{table}[t]\n  \\centering\n  \\small\n"
        f"  \\caption{{{caption}}}\n  \\label{{tab:continual-{number}}}\n  \\smallskip\n"
        f"  {_FIT}{{%\n"
        f"  \\begin{{tabular}}{{l{'r' * (1 + len(columns))}}}\n    \\toprule\n    {head} \\\\\n    \\midrule\n"
        f"{body}\n    \\bottomrule\n  \\end{{tabular}}}}\n\\end{{table}}\n"
    )


def _stages_table(line: Line) -> str:
    """Success on further suites after each stage of one line."""
    names, rows = stage_table(line)
    body = "\n".join(
        "    " + " & ".join([_escape(row), *(_latex_cell(line.cell(column), None) for column in cells)]) + r" \\"
        for row, cells in rows
    )
    caption = f"{_escape(f'{line.name} on {names[0]}')}: mean success in percent on the suite that is learnt and on "
    caption += r"LIBERO-PRO's changes of its tasks, after each stage, with 95\% confidence intervals."
    return (
        f"\\begin{{table}}[t]\n  \\centering\n  \\small\n  \\caption{{{caption}}}\n  \\smallskip\n  {_FIT}{{%\n"
        f"  \\begin{{tabular}}{{l{'r' * len(names)}}}\n    \\toprule\n"
        f"    {' & '.join(['Policy', *map(_escape, names)])} \\\\\n    \\midrule\n"
        f"{body}\n    \\bottomrule\n  \\end{{tabular}}}}\n\\end{{table}}\n"
    )


def _latex_row(line: Line, cells: Sequence[str]) -> str:
    return "    " + " & ".join([_escape(line.name), str(len(line.seeds)), *cells]) + r" \\"


def _latex_cell(cell: Cell | None, best: float | None) -> str:
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
    text = f"{100 * rate:.1f}"
    return "0.0" if text == "-0.0" else text.replace("-", "$-$")


def _escape(text: str) -> str:
    return "".join(_ESCAPES.get(letter, letter) for letter in text)


def csv_table(experiments: Sequence[Experiment]) -> str:
    """One row per method (``row`` is ``mean``) and one per ``seed``; all metrics as fractions with their intervals.
    ``SUITE_stage_N`` is the mean success on a further suite after the N-th stage of learning, 0 the first row.

    A ``reference`` learns nothing: ``avg`` and ``zero_shot`` are its success on the same tasks. An experiment that is
    ``left out`` has no numbers; its ``note`` says why.
    """
    columns = (*COLUMNS, *stage_columns(experiments))
    names = [f"{column.key}{end}" for column in columns for end in ("", "_low", "_high")]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ["suite", "learnt_tasks", "decoding", "assets", "line", "method", "row", "seeds", "episodes", *names, "note"]
    )
    for setting in _settings(experiments):
        tasks = _join(setting.lines[0].matrices[0].learnt_tasks)
        for line in setting.lines:
            rows = [(line, "mean"), *((Line.of(one), "seed") for one in line.experiments)]
            for part, kind in rows:
                cells = [part.cell(column) for column in columns]
                writer.writerow([*_labels(line, tasks), kind, _join(part.seeds), _episodes(part), *_texts(cells), ""])
        for line in setting.references:
            cells = [setting.reference_cell(line, column) for column in columns]
            writer.writerow(
                [*_labels(line, tasks), "reference", _join(line.seeds), _episodes(line), *_texts(cells), ""]
            )
    for one, why in left_out(experiments):
        labels = [one.suite, "", "", "", method_name(one.method), one.method, "left out", one.seed, ""]
        writer.writerow([*labels, *[""] * len(names), why])
    return text.getvalue()


def _labels(line: Line, learnt: str) -> list[str]:
    record = line.first.records[-1]
    return [line.first.suite, learnt, record.decoding_words, record.assets, line.name, line.first.method]


def _episodes(line: Line) -> int:
    return int(sum(matrix.episodes_RK.sum() for matrix in line.matrices))


def _texts(cells: Sequence[Cell | None]) -> list[str]:
    texts = []
    for cell in cells:
        parts = (None, None, None) if cell is None else (cell.value, cell.low, cell.high)
        texts += ["" if part is None else f"{part:.6g}" for part in parts]
    return texts


def _join(numbers: Sequence[int]) -> str:
    return " ".join(map(str, numbers))


def _settings(experiments: Sequence[Experiment]) -> list[Setting]:
    if not (settings := settings_of(experiments)):
        problems = "; ".join(f"{one.folder}: {one.matrix_problem}" for one in experiments)
        raise ReportError(f"there is no success matrix to make a table of ({problems})")
    return settings


def write_text(path: Path, text: str, *, option: str) -> Path:
    """Write a file, whole or not at all."""
    if path.is_dir():
        raise ReportError(f"{path} is a folder; {option} takes the name of a file")
    write_whole(path, text)
    return path
