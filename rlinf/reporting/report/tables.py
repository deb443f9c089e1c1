"""Tables: all metrics, evaluations, settings, and several experiments side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape

from rlinf.custom import metrics
from rlinf.custom.metrics import Estimate, SuccessMatrix
from rlinf.reporting.report.collect import Experiment
from rlinf.reporting.report.words import duration, method_name, percent, points_text, suite_name


def metrics_table(matrix: SuccessMatrix) -> str:
    """All metrics with their definitions."""
    rows: list[tuple[str, Estimate | float | None, bool, str]] = [
        ("AVG", metrics.average_success(matrix), False, "mean success on the learnt tasks after the last one"),
        ("Improvement", metrics.improvement(matrix), True, "AVG minus the base model on the same tasks"),
        ("Plasticity", metrics.plasticity(matrix), False, "mean success on each task right after learning it"),
        ("NBT (final)", metrics.nbt_final(matrix), True, "right after learning minus at the end (arXiv:2603.11653)"),
        (
            "NBT (LIBERO)",
            metrics.nbt_libero(matrix),
            True,
            "right after learning minus the mean over all later rows (arXiv:2306.03310)",
        ),
        ("BWT", metrics.backward_transfer(matrix), True, "the negative of NBT (final) (GEM, arXiv:1706.08840)"),
        ("FWT", metrics.forward_transfer(matrix), True, "just before a task’s own training minus base (GEM)"),
        ("Forgetting", metrics.forgetting(matrix), True, "best earlier success minus the final one (arXiv:1801.10112)"),
        ("Zero-shot", metrics.zero_shot_success(matrix), False, "mean final success on tasks never trained on"),
        ("Zero-shot change", metrics.zero_shot_change(matrix), True, "Zero-shot minus the base model on these tasks"),
    ]
    lines = []
    for name, value, is_difference, words in rows:
        show = points_text if is_difference else percent
        if value is None:
            number, span = "–", ""
        elif isinstance(value, Estimate):
            number, span = show(value.value), f"{show(value.low)} to {show(value.high)}"
        else:
            number, span = show(value), ""
        lines.append(
            f'<tr><th scope="row">{name}</th><td class="num"><b>{number}</b></td><td class="num"><small>{span}</small>'
            f'</td><td class="words">{words}</td></tr>'
        )
    return (
        '<details><summary>All metrics and their definitions</summary><div class="scroll"><table class="plain wide">'
        f"<tbody>{''.join(lines)}</tbody></table></div></details>"
    )


def evaluations_table(experiment: Experiment) -> str:
    """Every row's evaluation as recorded."""
    if not experiment.records:
        return ""
    head = ("Row", "Success once", "At the end", "Return", "Steps", "Episodes", "Took", "Checkpoint")
    lines = []
    for record in experiment.records:
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
            f'<tr><th scope="row">{escape(record.row)}</th>{cells}'
            f"<td><code>{escape(record.checkpoint)}</code></td></tr>"
        )
    titles = "".join(f"<th{'' if name in ('Row', 'Checkpoint') else ' class=num'}>{name}</th>" for name in head)
    return (
        '<details><summary>Evaluations</summary><div class="scroll"><table class="plain wide"><thead><tr>'
        f"{titles}</tr></thead><tbody>{''.join(lines)}</tbody></table></div></details>"
    )


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


def comparison(experiments: Sequence[Experiment], anchors: Sequence[str]) -> str:
    """One line per experiment, for reports on several, and the mean over seeds of each method."""
    lines = []
    columns: tuple[tuple[Callable[[SuccessMatrix], Estimate | None], Callable[[float], str]], ...] = (
        (metrics.base_success, percent),
        (metrics.average_success, percent),
        (metrics.nbt_final, points_text),
        (metrics.forward_transfer, points_text),
        (metrics.zero_shot_success, percent),
    )
    groups: dict[tuple[str, str], list[SuccessMatrix]] = {}
    for experiment, anchor in zip(experiments, anchors, strict=True):
        cells = []
        for measure, show in columns:
            estimate = measure(experiment.matrix) if experiment.matrix is not None else None
            cells.append(_estimate_cell(estimate, show))
        if experiment.matrix is not None:
            groups.setdefault((experiment.method, experiment.suite), []).append(experiment.matrix)
        link = f'<a href="#{anchor}">{escape(experiment.title)}</a>'
        lines.append(f'<tr><th scope="row">{link}<br><small>seed {experiment.seed}</small></th>{"".join(cells)}</tr>')
    for (method, suite), matrices in groups.items():
        if len(matrices) > 1:
            cells = []
            for measure, show in columns:
                values = [estimate.value for matrix in matrices if (estimate := measure(matrix)) is not None]
                cells.append(_estimate_cell(metrics.over_seeds(values), show))
            name = escape(f"{method_name(method)} on {suite_name(suite)}")
            seeds = f"mean of {len(matrices)} seeds"
            lines.append(f'<tr><th scope="row">{name}<br><small>{seeds}</small></th>{"".join(cells)}</tr>')
    head = "".join(f"<th class=num>{name}</th>" for name in ("Base", "AVG", "NBT", "FWT", "Zero-shot"))
    return (
        '<div class="card scroll"><table class="plain wide names"><thead><tr><th>Experiment</th>'
        f"{head}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
        '<p class="hint">Base: base model on the tasks learnt later. AVG: learnt tasks at the end. NBT: forgetting in '
        "points, lower is better. FWT: forward transfer in points. Small print: 95% confidence interval, from the "
        "evaluation episodes for one seed and from the spread for a mean over seeds.</p>"
    )


def _estimate_cell(estimate: Estimate | None, show: Callable[[float], str]) -> str:
    if estimate is None:
        return '<td class="num">–</td>'
    span = f"{show(estimate.low)} to {show(estimate.high)}"
    return f'<td class="num"><b>{show(estimate.value)}</b><br><small>{span}</small></td>'
