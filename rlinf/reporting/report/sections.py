"""The parts of a report in words; each function returns an HTML fragment, empty when there is no data."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from html import escape

from rlinf.custom import metrics
from rlinf.custom.metrics import Estimate, SuccessMatrix
from rlinf.reporting.report import charts
from rlinf.reporting.report.collect import VIDEO_TYPES, Experiment, Video
from rlinf.reporting.report.words import count, listing, percent, points_text, row_words


def lead(experiment: Experiment) -> str:
    """What was done and what came out, in two or three sentences."""
    matrix = experiment.matrix
    if matrix is None:
        return f'<p class="lead">No success matrix: {escape(experiment.matrix_problem)}.</p>'
    learnt = matrix.learnt_tasks
    if not learnt:
        text = f"The base model was evaluated on {count(len(matrix.tasks), 'task')} and succeeds in "
        text += f"{percent(float(matrix.success_RK[0].mean()))} of the episodes. Nothing has been learnt yet."
        return f'<p class="lead">{text}</p>'
    order = ", one after the other" if len(matrix.stages) > 2 else ""
    names = listing([str(task) for task in learnt])
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
        states = sorted(set(last.init_states.values()))
        played = f", initial states {states[0]}" if len(states) == 1 else ""
        if states and experiment.training:
            played += f"; training starts from {_trained_states(experiment)}"
        rows += [
            ("Episodes", f"{episodes} per task and evaluation{played}"),
            ("Decoding", last.decoding_words),
            ("Assets", last.assets),
            ("Last evaluated", last.time[:16].replace("T", " ") + " UTC"),
        ]
    info = experiment.info
    if info is not None and info.hardware:
        rows.append(("Hardware", _hardware_words(info.hardware)))
    if info is not None and info.config_name:
        rows.append(("Config", info.config_name))
    return '<dl class="facts">' + "".join(f"<div><dt>{k}</dt><dd>{escape(v)}</dd></div>" for k, v in rows) + "</dl>"


def _trained_states(experiment: Experiment) -> str:
    """Whether an evaluation shows states that were not trained on."""
    config = experiment.info.config if experiment.info else {}
    chosen = config.get("env.train.init_states", "null")
    return "the same ones, as in the published experiments" if chosen == "null" else chosen


def _hardware_words(hardware: Mapping[str, str]) -> str:
    cores = hardware.get("cores") or hardware.get("cpus") or "?"
    gpus = hardware.get("gpus", "none")
    if gpus in ("none", "0", ""):
        return f"{cores} CPU cores, no GPU"
    return f"{gpus}{' GPU(s)' if gpus.isdigit() else ''}, {cores} CPU cores"


def notes(experiment: Experiment) -> str:
    """What a reader must know before comparing numbers."""
    texts = []
    if others := sorted({record.assets for record in experiment.records} - {"official"}):
        texts.append(
            f"The scenes are not LIBERO's official ones (recorded as: {escape(', '.join(others))}). Compare these "
            "numbers only with runs on the same assets."
        )
    if experiment.records and experiment.matrix is not None:
        evaluated = set().union(*(record.success for record in experiment.records))
        if dropped := sorted(evaluated - set(experiment.matrix.tasks)):
            texts.append(f"Left out, as not every evaluation covers them: tasks {listing(list(map(str, dropped)))}.")
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
    hint = f'<p class="hint">{count(more, "more video")} in the log folder.</p>' if more else ""
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
    """Row, task and initial state, as far as the file's name tells them; otherwise the name."""
    row = row_words(video.row) if video.row else ""
    match = re.search(r"task_(\d+)_init_(\d+)$", video.path.stem)
    episode = f"task {match[1]}, initial state {match[2]}" if match else video.path.stem.replace("_", " ")
    words = ": ".join(part for part in (row, episode) if part)
    return words[:1].upper() + words[1:]


def _verdict(gain: Estimate) -> str:
    span = f"95% interval {points_text(gain.low)} to {points_text(gain.high)} points"
    if gain.low > 0:
        return f"A gain of {points_text(gain.value).removeprefix('+')} points ({span})."
    if gain.high < 0:
        return f"A loss of {points_text(gain.value).removeprefix('−')} points ({span})."
    return f"The difference of {points_text(gain.value)} points lies within the noise of the evaluation ({span})."
