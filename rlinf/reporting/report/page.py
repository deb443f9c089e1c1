"""The report's page: what its template shows, and the page itself, with everything inline and nothing fetched."""

import base64
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from libero_runtime.files import write_whole
from rlinf.reporting import metrics
from rlinf.reporting.ledger import row_tasks, utc_now
from rlinf.reporting.metrics import SuccessMatrix
from rlinf.reporting.report import names, plots
from rlinf.reporting.report.changes import MEASURES, change_rows
from rlinf.reporting.report.collect import Experiment, TrainingRun, Video
from rlinf.reporting.report.columns import COLUMNS, evaluations_in_training, further_suites
from rlinf.reporting.report.compare import (
    LEFT_OUT,
    Comparison,
    MethodRuns,
    comparisons,
    differing_settings,
    left_out,
    scale_curves,
)
from rlinf.reporting.report.plots import NUM_COLOURS, Axis, Curve, Plot, Point

MAX_VIDEOS = 6  # of an experiment
MAX_VIDEO_BYTES = 24 * 2**20  # of all
_FOLDER = Path(__file__).parent
# Metric, title of its panel, how a value is written.
PANELS = (
    ("train/entropy", "Policy entropy", ".2f"),
    ("train/approx_kl", "Approximate KL", ".2g"),
    ("train/clip_fraction", "Clipped ratios", ".1%"),
    ("train/grad_norm", "Gradient norm", ".2g"),
    ("train/loss/policy", "Policy loss", ".2g"),
    ("train/loss/value", "Value loss", ".2g"),
    ("train/explained_variance", "Explained variance of values", ".2f"),
    ("rollout/episode_len", "Episode length (steps)", ".0f"),
)


def write_report(experiments: Sequence[Experiment], out: Path) -> Path:
    """Write the page, whole or not at all."""
    write_whole(out, render(experiments))
    return out


def render(experiments: Sequence[Experiment]) -> str:
    """The whole page. One experiment is its own headline; several are compared first and folded below."""
    several = len(experiments) > 1
    max_bytes = MAX_VIDEO_BYTES // len(experiments)
    return (
        _environment()
        .get_template("template.html")
        .render(
            heading="Continual reinforcement learning, compared" if several else experiments[0].title,
            style=(_FOLDER / "style.css").read_text(encoding="utf-8"),
            runs=[_run(one, max_bytes=max_bytes) for one in experiments],
            num_methods=len({experiment.method for experiment in experiments}),
            left_out=left_out(experiments),
            comparisons=[_comparison(one) for one in comparisons(experiments)] if several else [],
            anchors={id(experiment): f"experiment-{number}" for number, experiment in enumerate(experiments, start=1)},
            now=utc_now()[:16].replace("T", " "),
        )
    )


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        name: getattr(names, name)
        for name in ("percent", "points", "count", "listing", "duration", "suite_name", "task_title", "row_name")
    }
    environment.globals |= {
        "id": id, "zip": zip, "LEFT_OUT": LEFT_OUT, "COLUMNS": COLUMNS, "NUM_COLOURS": NUM_COLOURS,
        "cell_kind": plots.cell_kind, "rate_title": plots.rate_title, "learnt_places": plots.learnt_places,
        "before_and_after": plots.before_and_after, "metrics": metrics,
        "change_rows": change_rows, "MEASURES": MEASURES,
    }  # fmt: skip
    return environment


# ------------------------------------------------------------------------------------------------------------ one run


def _run(experiment: Experiment, *, max_bytes: int) -> dict[str, Any]:
    """What the section of one experiment shows beside the experiment itself."""
    matrix, method = experiment.matrix, MethodRuns.of(experiment)
    videos = _inline(experiment.videos, max_bytes=max_bytes)
    return {
        "experiment": experiment,
        "method": method,
        "matrix": matrix,
        "facts": _facts(experiment),
        "notes": _notes(experiment),
        "further": _further(experiment),
        "training": _training(experiment),
        "scales": _scales([method]),
        "videos": videos,
        "more_videos": len(experiment.videos) - len(videos) if videos else 0,
        "settings": _settings(experiment),
    }


def _facts(experiment: Experiment) -> list[tuple[str, str]]:
    """Seed, episodes, temperature, assets and the like."""
    facts = [("Seed", str(experiment.seed))]
    if experiment.records:
        last = experiment.records[-1]
        counts = sorted(set(last.episodes.values()))
        episodes = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
        states = sorted(set(last.init_states.values()))
        played = f", initial states {states[0]}" if len(states) == 1 else ""
        if states and experiment.training:  # whether an evaluation shows states that were not trained on
            config = experiment.info.config if experiment.info else {}
            chosen = config.get("env.train.init_states", "null")
            same = "the same ones, as in the published experiments"
            played += f"; training starts from {same if chosen == 'null' else chosen}"
        facts += [
            ("Episodes", f"{episodes} per task and evaluation{played}"),
            ("Decoding", last.decoding_name),
            ("Assets", last.assets),
            ("Last evaluated", last.time[:16].replace("T", " ") + " UTC"),
        ]
    if experiment.info is not None and experiment.info.hardware:
        cores, gpus = (experiment.info.hardware.get(name, "none") for name in ("cores", "gpus"))
        facts.append(("Hardware", f"{cores} CPU cores, no GPU" if gpus == "none" else f"{gpus}, {cores} CPU cores"))
    if experiment.info is not None and experiment.info.config_name:
        facts.append(("Config", experiment.info.config_name))
    return facts


def _notes(experiment: Experiment) -> list[str]:
    """What a reader must know before comparing numbers."""
    notes = []
    if others := sorted({record.assets for record in experiment.records} - {"official"}):
        notes.append(
            f"The scenes are not LIBERO's official ones (recorded as: {', '.join(others)}). Compare these numbers only "
            "with runs on the same assets."
        )
    if experiment.records and experiment.matrix is not None:
        evaluated = set().union(*(record.success for record in experiment.records))
        if dropped := sorted(evaluated - set(experiment.matrix.tasks)):
            notes.append(f"Left out, as not every evaluation covers them: tasks {names.listing(dropped)}.")
    return notes


def _further(experiment: Experiment) -> list[dict[str, Any]]:
    """Success of each task on each further suite, and which tasks a suite goes without."""
    found = []
    for suite in further_suites([experiment]):
        tasks = sorted(set().union(*(record.success for record in experiment.further[suite])))
        known = experiment.matrix.tasks if experiment.matrix is not None else tasks
        absent = [task for task in known if task not in tasks]
        found.append({"suite": suite, "tasks": tasks, "absent": absent, "records": experiment.further[suite]})
    return found


def _training(experiment: Experiment) -> dict[str, Any] | None:
    """Learning curves: one timeline over all stages, success first, then what tells why."""
    runs = [run for run in experiment.training if run.epochs]
    rings = [evaluations_in_training(experiment, run) for run in runs]
    success = _timeline(runs, "rollout/success_rate", names.percent, rings=rings)
    logged = dict.fromkeys(name for run in runs for values in run.metrics.values() for name in values)
    losses = [name for name in logged if name.startswith("train/loss/") and name not in {one[0] for one in PANELS}]
    methods_own = [(name, f"Loss: {name.removeprefix('train/loss/').replace('_', ' ')}", ".2g") for name in losses]
    panels = [
        (title, drawn)
        for name, title, form in (*PANELS, *methods_own)
        if (drawn := _timeline(runs, name, _shower(form))) is not None
    ]
    if success is None and not panels:
        return None
    times = {}
    for name in ("epoch", "rollout", "update"):
        if values := [value for run in runs for _, value in run.series(f"time/{name}")]:
            times[name] = sum(values) / len(values)
    epochs = sum(len(run.epochs) for run in runs)
    return {
        "success": success,
        "has_rings": any(rings),
        "panels": panels,
        "times": times,
        "epochs": epochs,
        "runs": runs,
    }


def _timeline(
    runs: Sequence[TrainingRun],
    name: str,
    show: Callable[[float], str],
    rings: Sequence[Sequence[tuple[float, float]]] | None = None,
) -> Plot | None:
    """Stages one after another on one time axis, each in its colour; None where nothing was logged.

    rings: (epoch, rate) by run; such a plot is wide and shows a rate, with the stages' names above it.
    """
    curves, stages, start = [], [], 0
    for number, run in enumerate(runs):
        label = (
            "All tasks" if not run.tasks else f"Task{'s' if len(run.tasks) > 1 else ''} {names.task_ranges(run.tasks)}"
        )
        series = [
            Point(start + epoch - 0.5, value, value, value, f"{label}, epoch {epoch:g}: {show(value)}")
            for epoch, value in run.series(name)
            if math.isfinite(value)
        ]
        marks = [(start + epoch, rate) for epoch, rate in rings[number]] if rings and series else []
        curves.append(Curve(label, number, [series], marks))
        stages.append((float(start), label if rings else "", number))
        start += len(run.epochs)
    values = [point.y for curve in curves for point in curve.points]
    if not values:
        return None
    ticks = plots.epoch_ticks(start, 10 if rings else 5, with_first=True)
    y_ticks = [0, 0.25, 0.5, 0.75, 1] if rings else plots.round_ticks(values)
    return Plot(curves, Axis(0, start, ticks, "epoch", stages), y_ticks, show=show)


def _shower(form: str) -> Callable[[float], str]:
    return lambda value: f"{value:{form}}".replace("-", "−") if abs(value) > 1e-12 else "0"


def _inline(videos: Sequence[Video], *, max_bytes: int) -> list[tuple[str, str]]:
    """(label, data) of at most ``MAX_VIDEOS``, in turns from the rows, the last row first."""
    rows: dict[str, list[Video]] = {}
    for video in videos:
        rows.setdefault(video.row, []).append(video)
    turns = [(turn, -number, video) for number, row in enumerate(rows.values()) for turn, video in enumerate(row)]
    chosen = [video for *_, video in sorted(turns, key=lambda one: one[:2])[:MAX_VIDEOS]]
    found, total = [], 0
    for video in sorted(chosen, key=videos.index):
        data = video.path.read_bytes()
        if total + len(data) <= max_bytes:
            total += len(data)
            found.append((_video_label(video), f"data:image/webp;base64,{base64.b64encode(data).decode()}"))
    return found


def _video_label(video: Video) -> str:
    """Row, task and initial state, as far as the file's name tells them; otherwise the name."""
    match = re.search(r"task_(\d+)_init_(\d+)$", video.path.stem)
    episode = f"task {match[1]}, initial state {match[2]}" if match else video.path.stem.replace("_", " ")
    label = f"{names.row_name(row_tasks(video.row))}: {episode}" if video.row else episode
    return label[:1].upper() + label[1:]


def _settings(experiment: Experiment) -> list[tuple[str, Mapping[str, str]]]:
    """How it was started, versions, hardware and the whole configuration."""
    info = experiment.info
    versions = info.versions if info else {}
    if not versions and experiment.records:
        versions = experiment.records[-1].versions
    hashes = ", ".join(dict.fromkeys(record.config_hash for record in experiment.records))
    groups: list[tuple[str, Mapping[str, str]]] = [("Versions", {**versions, "configuration hash": hashes})]
    if info is not None:
        run = {"config": info.config_name, "overrides": info.overrides, "started": info.started}
        groups = [("Run", run), *groups, ("Hardware", info.hardware), ("Settings", info.config)]
    filled = [(title, {name: text for name, text in rows.items() if text}) for title, rows in groups]
    return [(title, rows) for title, rows in filled if rows]


# ------------------------------------------------------------------------------------------------------------- several


def _comparison(comparison: Comparison) -> dict[str, Any]:
    methods = comparison.methods
    languages: dict[int, str] = {}
    for method in methods:
        languages.update(method.first.languages)
    matrix = methods[0].matrices[0]
    return {
        "comparison": comparison,
        "columns": comparison.columns,
        "stages": _stage_curves(methods),
        "learning": _learning_curves(methods),
        "tasks": [*matrix.learnt_tasks, *(task for task in matrix.tasks if task not in matrix.learnt_tasks)],
        "languages": languages,
        "bars": {task: [plots.final_bar(one.pooled, task, one.name) for one in methods] for task in matrix.tasks},
        "scales": _scales(methods),
        "differing": differing_settings(methods) if len(methods) > 1 else {},
        "unknown": [one.name for one in methods if not (one.first.info and one.first.info.config)],
    }


def _stage_curves(methods: Sequence[MethodRuns]) -> Plot | None:
    """Mean success on the tasks learnt so far, after each stage."""
    curves, levels = [], []
    for number, method in enumerate(methods):
        stages = method.matrices[0].stages
        rows = range(1 if method.matrices[0].has_base else 0, len(stages))
        means = [[_learnt_so_far(matrix, row) for matrix in method.matrices] for row in rows]
        if method.is_joint:
            levels.append((method.name, sum(means[-1]) / len(means[-1])))
        elif len(means) > 1:
            points = [plots.spread(stage, values, method.name) for stage, values in enumerate(means, start=1)]
            curves.append(Curve(method.name, number, [points]))
    if not curves:
        return None
    length = max(len(curve.pieces[0]) for curve in curves)
    axis = Axis(1, length, [(stage, str(stage)) for stage in range(1, length + 1)], "stage")
    return Plot(curves, axis, _ticks(curves, [level for _, level in levels]), levels=levels)


def _ticks(curves: Sequence[Curve], levels: Sequence[float] = ()) -> list[float]:
    ends = [end for curve in curves for point in curve.points for end in (point.low, point.high)]
    return plots.rate_ticks([*levels, *ends])


def _learnt_so_far(matrix: SuccessMatrix, row: int) -> float:
    learnt = matrix.learnt_by(row)
    return sum(matrix.success(row, task) for task in learnt) / len(learnt)


def _learning_curves(methods: Sequence[MethodRuns]) -> Plot | None:
    """Success of training rollouts, stage after stage; joint training has no stages to align with."""
    found = [
        (number, method, stages)
        for number, method in enumerate(methods)
        if not method.is_joint and (stages := _training_by_stage(method))
    ]
    if not found:
        return None
    axis_stages: list[tuple[float, str, int | None]] = []
    start = 0
    for place in range(max(len(stages) for *_, stages in found)):
        here = [stages[place] for *_, stages in found if place < len(stages)]
        tasks = {runs[0].tasks for runs in here}
        title = f"Task {names.task_ranges(tasks.pop())}" if len(tasks) == 1 else f"Stage {place + 1}"
        axis_stages.append((float(start), title, None))
        start += max(len(run.epochs) for runs in here for run in runs)
    curves = [
        Curve(
            method.name,
            number,
            [_mean_series(runs, start, method.name) for runs, (start, *_) in zip(stages, axis_stages, strict=False)],
        )
        for number, method, stages in found
    ]
    axis = Axis(0, start, plots.epoch_ticks(start, 12, with_first=False), "epoch", axis_stages)
    return Plot(curves, axis, _ticks(curves))


def _training_by_stage(method: MethodRuns) -> list[list[TrainingRun]]:
    """By stage the training of all seeds."""
    stages = []
    for tasks in method.matrices[0].stages:
        runs = [
            run for one in method.experiments for run in one.training if set(run.tasks) == set(tasks) and run.epochs
        ]
        if tasks and runs:
            stages.append(runs)
    return stages


def _mean_series(runs: Sequence[TrainingRun], start: float, label: str) -> list[Point]:
    by_epoch: dict[float, list[float]] = {}
    for run in runs:
        for epoch, value in run.series("rollout/success_rate"):
            by_epoch.setdefault(epoch, []).append(value)
    return [plots.spread(start + epoch - 0.5, values, label) for epoch, values in sorted(by_epoch.items())]


def _scales(methods: Sequence[MethodRuns]) -> list[tuple[str, Plot]]:
    """Success over the LoRA scale, on learnt and on held-out tasks; empty without probes."""
    found = [
        (curve, number + NUM_COLOURS * turn)  # a method keeps its colour; its further curves are dashed
        for number, method in enumerate(methods)
        for turn, curve in enumerate(scale_curves(method))
    ]
    panels = []
    for title, which in (("Learnt tasks", "learnt"), ("Held-out tasks", "held_out")):
        curves = [
            Curve(one.label, colour, [[plots.spread(x, rates, one.label) for x, rates in getattr(one, which).items()]])
            for one, colour in found
        ]
        scales = sorted(point.x for curve in curves for point in curve.pieces[0])
        if scales:
            left, right = min(0.0, scales[0]), max(1.0, scales[-1])
            panels.append(
                (title, Plot(curves, Axis(left, right, plots.scale_ticks(left, right), "scale"), _ticks(curves)))
            )
    return panels
