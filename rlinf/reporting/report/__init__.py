"""The report: one self-contained HTML file from the folders of one or more experiments, and its table as LaTeX and CSV.

``collect`` reads files, ``columns`` are the metrics of all tables, ``compare`` groups what is comparable,
``changes`` has what training changed. ``plots`` works out where shapes lie and ``page`` what ``template.html``
shows; ``export`` writes LaTeX and CSV.
"""

from rlinf.reporting.report.collect import collect
from rlinf.reporting.report.export import csv_table, latex
from rlinf.reporting.report.page import write_report

__all__ = ["collect", "csv_table", "latex", "write_report"]
