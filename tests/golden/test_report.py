"""The report of a small study shows the committed numbers, in its page, its LaTeX table and its CSV.

The study (``study/``: three methods, two seeds, two tasks) was written by an earlier commit, as users' results were.
Numbers are read out of the files, so that another template or another library for tables passes.
"""

import csv
import json
from pathlib import Path

import pytest

from tests.golden import golden, subjects, tables

HERE = Path(__file__).parent
COMMITTED = HERE / "report.json"
LEAST = 10  # numbers in a row of the page that is held: success of ten tasks, or a comparison of methods


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    return subjects.make_report(HERE / "study", tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def committed(files) -> dict[str, object]:
    if golden.is_rewritten():
        found = {"csv": _csv(files["csv"]), "latex": _latex(files["latex"]), "page": _page(files["page"])}
        COMMITTED.write_text(json.dumps(found).replace("], [", "],\n [").replace(": [[", ": [\n [") + "\n")
    return json.loads(COMMITTED.read_text())


def test_csv(files, committed):
    """Another table of Student's t may have more digits."""
    found = _csv(files["csv"])
    for row, expected in zip(found, committed["csv"], strict=True):
        assert golden.same(row, expected, rel=0, absolute=1e-4), (row, expected)


def test_latex(files, committed):
    assert _latex(files["latex"]) == committed["latex"]


def test_page(files, committed):
    shown = _page(files["page"])
    missing = [row for row in committed["page"] if row not in shown]
    assert not missing, f"not among the page's rows: {missing}"


def _csv(path: Path) -> list[list[object]]:
    """Cells of each row after its column's name, empty ones left out."""
    with path.open() as file:
        rows = list(csv.DictReader(file))
    return [[item for key, cell in row.items() if cell for item in (key, _cell(cell))] for row in rows]


def _cell(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _latex(path: Path) -> list[list[object]]:
    return tables.latex_rows(path.read_text())


def _page(path: Path) -> list[list[float]]:
    """Numbers of each long row that has a name."""
    rows = (row for row in tables.html_rows(path.read_text()) if row[0])
    return [list(row) for row in sorted({tuple(values) for _, *values in rows if len(values) >= LEAST})]
