"""Assemble the report's page: everything inline, nothing fetched."""

from __future__ import annotations

import os
from collections.abc import Sequence
from html import escape
from pathlib import Path

from rlinf.reporting.ledger import utc_now
from rlinf.reporting.report import sections, tables, training
from rlinf.reporting.report.collect import Experiment, ReportError

_STYLE = Path(__file__).with_name("style.css")
MAX_VIDEO_BYTES = 24 * 2**20


def write_report(experiments: Sequence[Experiment], out: Path, *, title: str = "", max_videos: int = 6) -> Path:
    """Write the page under a temporary name, then rename it."""
    if out.is_dir():
        raise ReportError(f"{out} is a folder; --out takes the name of a file such as report.html")
    page = render(experiments, title=title, max_videos=max_videos)
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(f".{out.name}.{os.getpid()}")
    partial.write_text(page, encoding="utf-8")
    partial.replace(out)
    return out


def render(experiments: Sequence[Experiment], *, title: str = "", max_videos: int = 6) -> str:
    """The whole page. One experiment is its own headline; several are compared first."""
    several = len(experiments) > 1
    heading = title or ("Continual reinforcement learning, compared" if several else experiments[0].title)
    anchors = [f"experiment-{number}" for number in range(1, len(experiments) + 1)]
    body = [f'<p class="overline">Continual RL of vision-language-action models</p><h1>{escape(heading)}</h1>']
    if several:
        body.append(tables.comparison(experiments, anchors))
    for experiment, anchor in zip(experiments, anchors, strict=True):
        body.append(_experiment(experiment, anchor, is_named=several or bool(title), max_videos=max_videos))
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        # A page that is sent around must not fetch anything, even if a value in it looked like HTML.
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; img-src data:; media-src data:; '
        "style-src 'unsafe-inline'\">"
        f"<title>{escape(heading)}</title><style>{_STYLE.read_text(encoding='utf-8')}</style></head>"
        f"<body><main>{''.join(body)}<footer>Made {utc_now()[:16].replace('T', ' ')} UTC by "
        "<code>python -m rlinf.cli.report</code>.</footer></main></body></html>\n"
    )


def _experiment(experiment: Experiment, anchor: str, *, is_named: bool, max_videos: int) -> str:
    parts = []
    if is_named:
        parts.append(f"<h2>{escape(experiment.title)}, seed {experiment.seed}</h2>")
    parts += [sections.lead(experiment), sections.facts(experiment)]
    if experiment.matrix is not None:
        parts.append(sections.headline(experiment.matrix))
    parts += [
        sections.notes(experiment),
        sections.success_section(experiment),
        sections.task_section(experiment),
        training.section(experiment),
        sections.video_section(experiment.videos, limit=max_videos, max_bytes=MAX_VIDEO_BYTES),
    ]
    details = tables.evaluations_table(experiment) + tables.settings_tables(experiment)
    if experiment.matrix is not None:
        details = tables.metrics_table(experiment.matrix) + details
    if details:
        parts.append(f'<h2>Details</h2><div class="card">{details}</div>')
    return f'<section class="experiment" id="{anchor}">{"".join(parts)}</section>'
