"""Rows of the tables in LaTeX and HTML, as a label and numbers, so that only what they say is compared."""

import re
from html.parser import HTMLParser

_NUMBER = re.compile(r"[-+]?\d+(?:\.\d+)?")


def numbers(text: str) -> list[float]:
    """All numbers of a text; any dash before a digit is a minus sign."""
    return [float(found) for found in _NUMBER.findall(text.replace("\N{MINUS SIGN}", "-").replace("$-$", "-"))]


def latex_rows(text: str) -> list[list[object]]:
    """Of every tabular: first cell, then the numbers of each further one, after ``best`` where it is bold."""
    rows = []
    for body in re.findall(r"\\begin\{tabular\}\{[^}]*\}(.*?)\\end\{tabular\}", text, re.DOTALL):
        for line in re.sub(r"\\(top|mid|bottom)rule", "", body).split(r"\\"):
            label, *cells = (cell.strip() for cell in line.split("&"))
            if cells:
                rows.append([label, *(["best"] * (r"\textbf" in cell) + numbers(cell) for cell in cells)])
    return rows


def html_rows(text: str) -> list[list[object]]:
    """Of every table: first cell, then the numbers of the others together."""
    reader = _Rows()
    reader.feed(text)
    rows = [[re.sub(r"\s+", " ", cell).strip() for cell in row] for row in reader.rows]
    return [[label, *numbers(" | ".join(cells))] for label, *cells in rows if cells]


class _Rows(HTMLParser):
    """Texts of cells, without what draws or styles."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self._in_cell = False
        self._hidden = 0

    def handle_starttag(self, tag, attrs):
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th") and self.rows:
            self.rows[-1].append("")
            self._in_cell = True
        elif tag in ("svg", "style", "script"):
            self._hidden += 1

    def handle_endtag(self, tag):
        if tag in ("td", "th"):
            self._in_cell = False
        elif tag in ("svg", "style", "script"):
            self._hidden -= 1

    def handle_data(self, data):
        if self._in_cell and not self._hidden:
            self.rows[-1][-1] += f" {data}"
