"""Assemble the report's page: everything inline, nothing fetched."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from rlinf.reporting.ledger import utc_now
from rlinf.reporting.report import compare, generalisation, scales, sections, tables, training
from rlinf.reporting.report.collect import Experiment
from rlinf.reporting.report.export import write_text
from rlinf.reporting.report.lines import LEFT_OUT, Line, left_out, settings_of
from rlinf.reporting.report.words import count

_STYLE = Path(__file__).with_name("style.css")
MAX_VIDEO_BYTES = 24 * 2**20


def write_report(experiments: Sequence[Experiment], out: Path, *, title: str = "", max_videos: int = 6) -> Path:
    """Write the page under a temporary name, then rename it."""
    return write_text(out, render(experiments, title=title, max_videos=max_videos), option="--out")


def render(experiments: Sequence[Experiment], *, title: str = "", max_videos: int = 6) -> str:
    """The whole page. One experiment is its own headline; several are compared first and folded below."""
    several = len(experiments) > 1
    heading = title or ("Continual reinforcement learning, compared" if several else experiments[0].title)
    body = [f'<p class="overline">Continual RL of vision-language-action models</p><h1>{escape(heading)}</h1>']
    if several:
        settings = settings_of(experiments)
        anchors = {id(experiment): f"experiment-{number}" for number, experiment in enumerate(experiments, start=1)}
        body.append(_overview(experiments))
        body += [compare.section(setting, anchors=anchors, is_only=len(settings) == 1) for setting in settings]
        body.append(_single_runs(experiments, max_videos))
    else:
        body.append(_experiment(experiments[0], is_named=bool(title), max_videos=max_videos, max_bytes=MAX_VIDEO_BYTES))
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


def _overview(experiments: Sequence[Experiment]) -> str:
    """How much is compared, and what could not be."""
    methods = {experiment.method for experiment in experiments}
    words = f"{count(len(experiments), 'run')} of {count(len(methods), 'method')}."
    missing = "".join(f"<li>{escape(one.name)}: {escape(why)}</li>" for one, why in left_out(experiments))
    problems = f'<div class="note">{LEFT_OUT}:<ul>{missing}</ul></div>' if missing else ""
    stand_in = next((text for experiment in experiments if (text := sections.notes(experiment))), "")
    return f'<p class="lead">{words} Each run has its own section at the end.</p>{stand_in}{problems}'


def _single_runs(experiments: Sequence[Experiment], max_videos: int) -> str:
    """Every run, folded; videos share the page's allowance."""
    runs = []
    for number, experiment in enumerate(experiments, start=1):
        content = _experiment(
            experiment, is_named=False, max_videos=max_videos, max_bytes=MAX_VIDEO_BYTES // len(experiments)
        )
        runs.append(
            f'<details class="run" id="experiment-{number}"><summary>{escape(experiment.name)} '
            f"<small>{escape(str(experiment.folder))}</small></summary>{content}</details>"
        )
    return f'<h2>Each run</h2><div class="card">{"".join(runs)}</div>'


def _experiment(experiment: Experiment, *, is_named: bool, max_videos: int, max_bytes: int) -> str:
    parts = []
    if is_named:
        parts.append(f"<h2>{escape(experiment.name)}</h2>")
    parts += [sections.lead(experiment), sections.facts(experiment)]
    if experiment.matrix is not None:
        parts.append(sections.headline(experiment.matrix))
    parts += [
        sections.notes(experiment),
        sections.success_section(experiment),
        generalisation.section([Line.of(experiment)], with_tasks=True),
        sections.task_section(experiment),
        training.section(experiment),
        scales.section([Line.of(experiment)]),
        sections.video_section(experiment.videos, limit=max_videos, max_bytes=max_bytes),
    ]
    details = tables.evaluations_table(experiment) + tables.settings_tables(experiment)
    if experiment.matrix is not None:
        details = tables.metrics_table(experiment) + details
    if details:
        parts.append(f'<h2>Details</h2><div class="card">{details}</div>')
    return f'<section class="experiment">{"".join(parts)}</section>'
