"""The parts of a report in words and tables; each function returns an HTML fragment, empty when there is no data."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from html import escape
from typing import Any

from rlinf.custom import metrics
from rlinf.custom.metrics import Estimate, SuccessMatrix
from rlinf.reporting.report import charts
from rlinf.reporting.report.charts import Segment, percent, points_text
from rlinf.reporting.report.collect import VIDEO_TYPES, Experiment, TrainingRun, Video

SUITE_NAMES = {
    "libero_spatial": "LIBERO-Spatial",
    "libero_object": "LIBERO-Object",
    "libero_goal": "LIBERO-Goal",
    "libero_10": "LIBERO-Long",
    "libero_90": "LIBERO-90",
}
METHOD_NAMES = {
    "sequential": "Sequential fine-tuning",
    "ewc": "Elastic weight consolidation",
    "er": "Experience replay",
    "der": "Dark experience replay",
    "weight_merge": "Weight merge",
    "slca": "SLCA",
    "multitask": "Multitask training",
    "simple_cnn": "Simple CNN policy",
}
# Metric, title of its panel, how a value is written.
PANELS: tuple[tuple[str, str, str], ...] = (
    ("train/entropy", "Policy entropy", ".2f"),
    ("train/approx_kl", "Approximate KL", ".2g"),
    ("train/clip_fraction", "Clipped ratios", ".1%"),
    ("train/grad_norm", "Gradient norm", ".2g"),
    ("train/loss/policy", "Policy loss", ".2g"),
    ("rollout/episode_len", "Episode length (steps)", ".0f"),
)


def method_name(method: str) -> str:
    """A method's name for people."""
    return METHOD_NAMES.get(method, method.replace("_", " ").capitalize())


def suite_name(suite: str) -> str:
    """A suite's name for people."""
    return SUITE_NAMES.get(suite, suite or "unknown suite")


def experiment_title(experiment: Experiment) -> str:
    """Method and suite."""
    return f"{method_name(experiment.method)} on {suite_name(experiment.suite)}"


def lead(experiment: Experiment) -> str:
    """What was done and what came out, in two or three sentences."""
    matrix = experiment.matrix
    if matrix is None:
        return f'<p class="lead">No success matrix: {escape(experiment.matrix_problem)}.</p>'
    learnt = matrix.learnt_tasks
    if not learnt:
        text = f"The base model was evaluated on {_count(len(matrix.tasks), 'task')} and succeeds in "
        text += f"{percent(float(matrix.success_RK[0].mean()))} of the episodes. Nothing has been learnt yet."
        return f'<p class="lead">{text}</p>'
    order = ", one after the other" if len(matrix.stages) > 2 else ""
    names = _listing([str(task) for task in learnt])
    average, gain = metrics.average_success(matrix), metrics.improvement(matrix)
    assert average is not None  # something was learnt
    noun = "task" if len(learnt) == 1 else "tasks"
    text = f"After reinforcement learning on {noun} {names}{order}, the policy succeeds in {percent(average.value)} of "
    text += "its episodes" if len(learnt) == 1 else "their episodes"
    if gain is not None:
        text += f"; the base model succeeds in {percent(average.value - gain.value)}. {_verdict(gain)}"
    else:
        text += ". The base model was not evaluated, so there is nothing to compare with."
    return f'<p class="lead">{text}</p>'


def facts(experiment: Experiment) -> str:
    """Seed, episodes, temperature, assets and the like in one line."""
    rows = [("Seed", str(experiment.seed))]
    if experiment.records:
        last = experiment.records[-1]
        counts = sorted(set(last.episodes.values()))
        episodes = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
        rows += [
            ("Episodes", f"{episodes} per task and evaluation"),
            ("Temperature", f"{last.temperature:g}" if last.temperature else "0 (greedy)"),
            ("Assets", last.assets),
            ("Last evaluated", last.time[:16].replace("T", " ") + " UTC"),
        ]
    info = experiment.info
    if info is not None and info.hardware:
        cores = info.hardware.get("cores", "")
        gpu = info.hardware.get("gpu", "none")
        rows.append(("Hardware", gpu if gpu != "none" else f"{cores} CPU cores, no GPU"))
    if info is not None and info.config_name:
        rows.append(("Config", info.config_name))
    return '<dl class="facts">' + "".join(f"<div><dt>{k}</dt><dd>{escape(v)}</dd></div>" for k, v in rows) + "</dl>"


def notes(experiment: Experiment) -> str:
    """What a reader must know before comparing numbers."""
    texts = []
    if any("generated" in record.assets.lower() or "stand" in record.assets.lower() for record in experiment.records):
        texts.append(
            "The scenes are built from generated stand-in assets, not LIBERO's own meshes and textures. Compare these "
            "numbers only with runs on the same assets."
        )
    if experiment.records and experiment.matrix is not None:
        evaluated = set().union(*(record.success for record in experiment.records))
        if dropped := sorted(evaluated - set(experiment.matrix.tasks)):
            texts.append(f"Left out, as not every evaluation covers them: tasks {_listing(list(map(str, dropped)))}.")
    return "".join(f'<p class="note">{text}</p>' for text in texts)


def headline(matrix: SuccessMatrix) -> str:
    """The four numbers of the field, each with its interval and a sentence."""
    episodes = int(matrix.episodes_RK.sum())
    base, average = metrics.base_success(matrix), metrics.average_success(matrix)
    if average is None:
        assert base is not None  # a matrix has a base row or a learnt task
        tiles = [_tile("Base model", "", base, "Mean success over all tasks, before any learning.")]
    else:
        before = f" The base model reaches {percent(base.value)}." if base is not None else ""
        zero_shot, change = metrics.zero_shot_success(matrix), metrics.zero_shot_change(matrix)
        against = f" That is {points_text(change.value)} points against the base model." if change is not None else ""
        tiles = [
            _tile("Learnt tasks", "AVG", average, f"Mean success on the learnt tasks at the end.{before}"),
            _tile(
                "Forgetting",
                "NBT",
                metrics.nbt_final(matrix),
                "Success lost since each task was learnt. Below zero, later tasks helped.",
                difference=-1,
                missing="Needs a task that was learnt before the last one.",
            ),
            _tile(
                "Forward transfer",
                "FWT",
                metrics.forward_transfer(matrix),
                "What learning earlier tasks gave a task before its own training, against the base model.",
                difference=1,
                missing="Needs the base model and two tasks learnt in sequence.",
            ),
            _tile(
                "Held-out tasks",
                "ZS",
                zero_shot,
                f"Mean success on tasks never trained on, at the end.{against}",
                missing="Every evaluated task was trained on.",
            ),
        ]
    return (
        f'<div class="tiles">{"".join(tiles)}</div><p class="hint">Ranges are 95% confidence intervals from '
        f"{episodes:,} evaluation episodes of one seed; they do not cover the spread between training seeds.</p>"
    )


def _tile(
    name: str, short: str, estimate: Estimate | None, text: str, *, difference: int = 0, missing: str = ""
) -> str:
    """One number; ``difference`` is +1 or -1 for point differences where more or less is better."""
    title = f'<div class="name">{name}{f"<span>{short}</span>" if short else ""}</div>'
    if estimate is None:
        return f'<div class="tile">{title}<div class="number none">–</div><p>{text} {missing}</p></div>'
    if difference:
        sure = estimate.low > 0 or estimate.high < 0
        colour = (" up" if estimate.value * difference > 0 else " down") if sure else ""
        number = f'<div class="number{colour}">{points_text(estimate.value)}<small>points</small></div>'
        span = f"{points_text(estimate.low)} to {points_text(estimate.high)}"
    else:
        number = f'<div class="number">{percent(estimate.value)}</div>'
        span = f"{percent(estimate.low)} to {percent(estimate.high)}"
    return f'<div class="tile">{title}{number}<div class="range">{span}</div><p>{text}</p></div>'


def success_section(experiment: Experiment) -> str:
    """Heat map of the success matrix."""
    matrix = experiment.matrix
    if matrix is None:
        return ""
    legend = '<span><i class="scale"></i>0 to 100% success</span>'
    if matrix.learnt_tasks:
        legend += '<span><i class="own"></i>just learnt</span>'
    if len(matrix.learnt_tasks) > 1 and len(matrix.stages) > 2:
        legend += '<span><i class="kept"></i>learnt earlier</span>'
    words = "How often each policy (row) solves each task (column), in percent."
    if matrix.learnt_tasks:
        words += (
            " Read down a column: the frame is the task’s own training, below it is what later training left of it."
        )
    return (
        f'<h2>Success matrix</h2><p class="hint">{words}</p><div class="card">'
        f'{charts.heat_map(matrix, experiment.languages)}<div class="legend">{legend}</div></div>'
    )


def task_section(experiment: Experiment) -> str:
    """Bars per task with intervals."""
    matrix = experiment.matrix
    if matrix is None:
        return ""
    both = matrix.has_base and len(matrix.stages) > 1
    legend = '<span><i class="bar-base"></i>base model</span>' if matrix.has_base else ""
    if both or not matrix.has_base:
        legend += '<span><i class="bar-end"></i>at the end</span>'
    legend += '<span><i class="whisker"></i>95% confidence interval</span>'
    return (
        f"<h2>{'Before and after, task by task' if both else 'Task by task'}</h2>"
        f'<div class="card">{charts.task_bars(matrix, experiment.languages)}<div class="legend">{legend}</div></div>'
    )


def training_section(experiment: Experiment) -> str:
    """Learning curves: one timeline over all tasks, success first."""
    runs = [run for run in experiment.training if run.metrics]
    if not runs:
        return ""
    parts = []
    success = _segments(runs, "rollout/success_rate")
    if any(segment.points for segment in success):
        matrix = experiment.matrix
        if matrix is not None:
            success = [replace(one, marks=_evaluations(matrix, run)) for one, run in zip(success, runs, strict=True)]
        legend = '<span><i class="dot"></i>training rollouts</span>'
        if any(segment.marks for segment in success):
            legend += '<span><i class="ring"></i>evaluation of the same task before and after its training</span>'
        plot = charts.timeline(success, show=percent, limits=(0.0, 1.0), is_wide=True)
        parts.append(
            f'<div class="card"><h3>Success during training</h3>{plot}<div class="legend">{legend}</div></div>'
        )
    panels = []
    for name, title, form in PANELS:
        segments = _segments(runs, name)
        if any(segment.points for segment in segments):
            plot = charts.timeline(segments, show=_shower(form))
            panels.append(f'<div class="card"><h3>{title}</h3>{plot}</div>')
    if panels:
        parts.append(f'<div class="panels">{"".join(panels)}</div>')
    if not parts:
        return ""
    return f'<h2>Learning curves</h2><p class="hint">{_training_words(runs)}</p>{"".join(parts)}'


def _segments(runs: Sequence[TrainingRun], name: str) -> list[Segment]:
    segments = []
    for number, run in enumerate(runs):
        first = min(run.metrics)
        label = ("Task " if len(run.tasks) == 1 else "Tasks ") + ", ".join(map(str, run.tasks))
        shown = [(float(step - first + 1), value) for step, value in run.series(name)]
        segments.append(Segment(label=label, colour=number, points=shown, width=max(run.metrics) - first + 1))
    return segments


def _evaluations(matrix: SuccessMatrix, run: TrainingRun) -> list[tuple[float, float]]:
    """Evaluated success of the run's tasks before its first and after its last epoch, where there is such a row."""
    if not all(task in matrix.learnt_tasks for task in run.tasks) or not run.metrics:
        return []
    own = matrix.own_row(run.tasks[0])
    rows = [(0.0, own - 1), (float(max(run.metrics) - min(run.metrics) + 1), own)]
    return [
        (epoch, sum(matrix.success(row, task) for task in run.tasks) / len(run.tasks))
        for epoch, row in rows
        if row >= 0
    ]


def _shower(form: str) -> Callable[[float], str]:
    return lambda value: f"{value:{form}}".replace("-", "−") if abs(value) > 1e-12 else "0"


def _training_words(runs: Sequence[TrainingRun]) -> str:
    epochs = sum(max(run.metrics) - min(run.metrics) + 1 for run in runs)
    words = f"Epochs on the horizontal axis, {_count(epochs, 'epoch')} in {_count(len(runs), 'stage')}. "
    words += "Rollouts explore at the training temperature, so their success may differ from the evaluations above."
    means = {}
    for name in ("time/epoch", "time/rollout", "time/update"):
        values = [value for run in runs for _, value in run.series(name)]
        if values:
            means[name] = sum(values) / len(values)
    if "time/epoch" in means:
        words += f" An epoch took {_seconds(means['time/epoch'])} on average"
        shares = [f"{_seconds(means[k])} {k.split('/')[1]}" for k in ("time/rollout", "time/update") if k in means]
        words += f" ({', '.join(shares)})." if shares else "."
    return words


def video_section(videos: Sequence[Video], *, limit: int, max_bytes: int) -> str:
    """Videos inside the page; those over the limits are only counted."""
    figures, total = [], 0
    for video in _spread(videos, limit):
        data = video.path.read_bytes()
        if total + len(data) > max_bytes:
            continue
        total += len(data)
        kind = VIDEO_TYPES[video.path.suffix]
        source = f"data:{kind};base64,{base64.b64encode(data).decode()}"
        label = escape(_video_label(video))
        player = (
            f'<img alt="{label}" src="{source}">'
            if kind.startswith("image/")
            else f'<video controls loop muted autoplay playsinline src="{source}"></video>'
        )
        figures.append(f"<figure>{player}<figcaption>{label}</figcaption></figure>")
    if not figures:
        return ""
    more = len(videos) - len(figures)
    hint = f'<p class="hint">{_count(more, "more video")} in the log folder.</p>' if more else ""
    return f'<h2>Episodes</h2><div class="videos">{"".join(figures)}</div>{hint}'


def _spread(videos: Sequence[Video], limit: int) -> list[Video]:
    """At most ``limit`` videos, taken in turns from the rows, the last row first."""
    rows: dict[str, list[Video]] = {}
    for video in videos:
        rows.setdefault(video.row, []).append(video)
    queues = [list(group) for group in reversed(rows.values())]
    chosen: list[Video] = []
    while len(chosen) < limit and any(queues):
        for queue in queues:
            if queue and len(chosen) < limit:
                chosen.append(queue.pop(0))
    order = {id(video): number for number, video in enumerate(videos)}
    return sorted(chosen, key=lambda video: order[id(video)])


def _video_label(video: Video) -> str:
    name = video.path.stem
    if video.row:
        name = name.removeprefix(video.row).lstrip("_")
    words = name.replace("_", " ")
    if video.row == "base":
        words = f"base model: {words}"
    elif video.row:
        words = f"after {video.row.replace('_', ' ')}: {words}"
    return words.removesuffix(": ")[:1].upper() + words.removesuffix(": ")[1:]


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
            _seconds(record.wall_seconds),
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
    """Command, versions, hardware and the whole configuration."""
    info = experiment.info
    groups: list[tuple[str, Mapping[str, str]]] = []
    versions = info.versions if info and info.versions else {}
    if not versions and experiment.records:
        versions = experiment.records[-1].versions
    if info is not None:
        run = {"command": info.command, "started": info.started, "config": info.config_name}
        groups.append(("Command", {name: text for name, text in run.items() if text}))
    hashes = ", ".join(dict.fromkeys(record.config_hash for record in experiment.records))
    groups.append(("Versions", {**versions, **({"configuration hash": hashes} if hashes else {})}))
    if info is not None:
        groups += [("Hardware", info.hardware), ("Settings", dict(_flat(info.config)))]
    return "".join(_plain_table(title, rows) for title, rows in groups if rows)


def _plain_table(title: str, rows: Mapping[str, str]) -> str:
    lines = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td><code>{escape(text)}</code></td></tr>'
        for name, text in rows.items()
    )
    return f'<details><summary>{title}</summary><table class="plain"><tbody>{lines}</tbody></table></details>'


def _flat(config: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    pairs: list[tuple[str, str]] = []
    for name, value in config.items():
        if isinstance(value, Mapping) and value:
            pairs += _flat(value, f"{prefix}{name}.")
        else:
            pairs.append((f"{prefix}{name}", "null" if value is None else str(value)))
    return pairs


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
        link = f'<a href="#{anchor}">{escape(experiment_title(experiment))}</a>'
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


def _verdict(gain: Estimate) -> str:
    span = f"95% interval {points_text(gain.low)} to {points_text(gain.high)} points"
    if gain.low > 0:
        return f"A gain of {points_text(gain.value).removeprefix('+')} points ({span})."
    if gain.high < 0:
        return f"A loss of {points_text(gain.value).removeprefix('−')} points ({span})."
    return f"The difference of {points_text(gain.value)} points lies within the noise of the evaluation ({span})."


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _listing(items: Sequence[str]) -> str:
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def _seconds(seconds: float) -> str:
    space = "\N{NO-BREAK SPACE}"
    if seconds < 90:
        return f"{seconds:.0f}{space}s" if seconds >= 10 else f"{seconds:.1f}{space}s"
    return f"{seconds / 60:.0f}{space}min" if seconds < 5400 else f"{seconds / 3600:.1f}{space}h"
