"""``python -m rlinf.cli.report FOLDER... --out report.html``: one offline page from the logs of experiments."""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from libero_runtime.files import write_whole
from rlinf.cli.console import run_cli
from rlinf.reporting.report import collect, csv_table, latex, write_report
from rlinf.reporting.report.collect import Experiment
from rlinf.reporting.report.compare import LEFT_OUT, MethodRuns, left_out


def main(argv: Sequence[str]) -> int:
    """Write the report; its path is the last line printed."""
    parser = argparse.ArgumentParser(
        prog="python -m rlinf.cli.report",
        description="Write one self-contained HTML report on the experiments below the given folders.",
        epilog="example: python -m rlinf.cli.report logs/sequential logs/ewc --out report.html --latex table.tex",
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="log folder; searched recursively")
    parser.add_argument("--out", type=Path, default=Path("report.html"), help="file to write (default: report.html)")
    parser.add_argument("--latex", type=Path, metavar="FILE", help="also write the table as LaTeX (booktabs)")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="also write the table as CSV, with all metrics")
    arguments = parser.parse_args(argv)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(message)s")
    experiments = collect(arguments.folders)
    for experiment in experiments:
        rows = ", ".join(record.row for record in experiment.records) or "no evaluation"
        print(f"{experiment.method}, seed {experiment.seed} ({experiment.folder}): {rows}")
        for line in _generalisation(experiment):
            print(f"  {line}")
    for experiment, why in left_out(experiments):
        print(f"{LEFT_OUT}: {experiment.name} ({experiment.folder}): {why}")
    for path, table in ((arguments.latex, latex), (arguments.csv, csv_table)):
        if path is not None:
            write_whole(path.resolve(), table(experiments))
            print(path.resolve())
    print(write_report(experiments, arguments.out.resolve()))
    return 0


def _generalisation(experiment: Experiment) -> list[str]:
    """Success on the learnt suite and on further ones, a line per stage; empty where there is no further suite."""
    if not experiment.further or experiment.matrix is None:
        return []
    runs = MethodRuns.of(experiment)
    suites, rows = runs.stage_table()
    return [
        f"{row}: "
        + ", ".join(
            f"{suite} {'–' if (cell := runs.cell(column)) is None else column.show(cell.value)}"
            for suite, column in zip(suites, columns, strict=True)
        )
        for row, columns in rows
    ]


if __name__ == "__main__":
    run_cli(main)
