"""The HTML report: one self-contained file from the folders of one or more experiments.

``collect`` reads files; ``charts``, ``sections``, ``training`` and ``tables`` turn them into fragments of HTML, in the
language of ``words``; ``page`` assembles.
"""

from rlinf.reporting.report.collect import ReportError, collect
from rlinf.reporting.report.page import write_report

__all__ = ["ReportError", "collect", "write_report"]
