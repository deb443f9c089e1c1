"""Tables on one experiment: all metrics, evaluations, settings."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

from rlinf.custom.metrics import Estimate
from rlinf.reporting.ledger import EvaluationRecord
from rlinf.reporting.report.collect import Experiment
from rlinf.reporting.report.columns import COLUMNS
from rlinf.reporting.report.words import duration, percent, points_text


def metrics_table(experiment: Experiment) -> str:
    """All metrics with their definitions."""
    lines = []
    for column in COLUMNS:
        value = column.measure(experiment)
        show = points_text if column.is_difference else percent
        if value is None:
            number, span = "–", ""
        elif isinstance(value, Estimate):
            number, span = show(value.value), f"{show(value.low)} to {show(value.high)}"
        else:
            number, span = show(value), ""
        lines.append(
            f'<tr><th scope="row">{column.name}</th><td class="num"><b>{number}</b></td><td class="num">'
            f'<small>{span}</small></td><td class="words">{column.words}</td></tr>'
        )
    return (
        '<details><summary>All metrics and their definitions</summary><div class="scroll"><table class="plain wide">'
        f"<tbody>{''.join(lines)}</tbody></table></div></details>"
    )


def evaluations_table(experiment: Experiment) -> str:
    """Every row's evaluation as recorded."""
    records = (*experiment.records, *experiment.probes)
    if not records:
        return ""
    head = ("Row", "Success once", "At the end", "Return", "Steps", "Episodes", "Took", "Checkpoint")
    lines = []
    for record in records:
        numbers = (
            percent(record.success_once),
            percent(record.success_at_end),
            f"{record.mean_return:.2f}",
            f"{record.mean_episode_len:.0f}",
            f"{sum(record.episodes.values())}",
            duration(record.wall_seconds),
        )
        cells = "".join(f'<td class="num">{escape(number)}</td>' for number in numbers)
        lines.append(
            f'<tr><th scope="row">{escape(_row_text(record))}</th>{cells}'
            f"<td><code>{escape(record.checkpoint)}</code></td></tr>"
        )
    titles = "".join(f"<th{'' if name in ('Row', 'Checkpoint') else ' class=num'}>{name}</th>" for name in head)
    return (
        '<details><summary>Evaluations</summary><div class="scroll"><table class="plain wide"><thead><tr>'
        f"{titles}</tr></thead><tbody>{''.join(lines)}</tbody></table></div></details>"
    )


def _row_text(record: EvaluationRecord) -> str:
    """The row's name and what was changed for the evaluation."""
    parts = [record.row]
    if record.lora_scale != 1:
        parts.append(f"LoRA scale {record.lora_scale:g}")
    if record.previous_coeff is not None:
        parts.append(f"earlier adapters × {record.previous_coeff:g}")
    return ", ".join(parts)


def settings_tables(experiment: Experiment) -> str:
    """How it was started, versions, hardware and the whole configuration."""
    info = experiment.info
    versions = info.versions if info else {}
    if not versions and experiment.records:
        versions = experiment.records[-1].versions
    hashes = ", ".join(dict.fromkeys(record.config_hash for record in experiment.records))
    groups: list[tuple[str, Mapping[str, str]]] = []
    if info is not None:
        groups.append(("Run", {"config": info.config_name, "overrides": info.overrides, "started": info.started}))
    groups.append(("Versions", {**versions, "configuration hash": hashes}))
    if info is not None:
        groups += [("Hardware", info.hardware), ("Settings", info.config)]
    return "".join(_plain_table(title, rows) for title, rows in groups)


def _plain_table(title: str, rows: Mapping[str, str]) -> str:
    lines = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td><code>{escape(text)}</code></td></tr>'
        for name, text in rows.items()
        if text
    )
    if not lines:
        return ""
    return f'<details><summary>{title}</summary><table class="plain"><tbody>{lines}</tbody></table></details>'
