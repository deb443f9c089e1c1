"""Learning curves: one timeline over all tasks, success first, then what tells why."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from html import escape

from rlinf.reporting.report import charts
from rlinf.reporting.report.charts import Segment
from rlinf.reporting.report.collect import Experiment, TrainingRun
from rlinf.reporting.report.learning_curves import evaluations_in_training
from rlinf.reporting.report.words import count, duration, percent, task_ranges

# Metric, title of its panel, how a value is written.
PANELS: tuple[tuple[str, str, str], ...] = (
    ("train/entropy", "Policy entropy", ".2f"),
    ("train/approx_kl", "Approximate KL", ".2g"),
    ("train/clip_fraction", "Clipped ratios", ".1%"),
    ("train/grad_norm", "Gradient norm", ".2g"),
    ("train/loss/policy", "Policy loss", ".2g"),
    ("train/loss/value", "Value loss", ".2g"),
    ("train/explained_variance", "Explained variance of values", ".2f"),
    ("rollout/episode_len", "Episode length (steps)", ".0f"),
)


def section(experiment: Experiment) -> str:
    """Learning curves: one timeline over all tasks, success first."""
    runs = [run for run in experiment.training if run.epochs]
    if not runs:
        return ""
    parts = []
    success = _segments(runs, "rollout/success_rate")
    if any(segment.points for segment in success):
        success = [
            replace(segment, marks=evaluations_in_training(experiment, run))
            for segment, run in zip(success, runs, strict=True)
        ]
        legend = '<span><i class="dot"></i>training rollouts</span>'
        if any(segment.marks for segment in success):
            legend += '<span><i class="ring"></i>evaluations of the task in training</span>'
        plot = charts.timeline(success, show=percent, limits=(0.0, 1.0), is_wide=True)
        parts.append(
            f'<div class="card"><h3>Success during training</h3>{plot}<div class="legend">{legend}</div></div>'
        )
    panels = []
    for name, title, form in (*PANELS, *_method_losses(runs)):
        segments = _segments(runs, name)
        if any(segment.points for segment in segments):
            plot = charts.timeline(segments, show=_shower(form))
            panels.append(f'<div class="card"><h3>{escape(title)}</h3>{plot}</div>')
    if panels:
        parts.append(f'<div class="panels">{"".join(panels)}</div>')
    if not parts:
        return ""
    return f'<h2>Learning curves</h2><p class="hint">{_training_words(runs)}</p>{"".join(parts)}'


def _method_losses(runs: Sequence[TrainingRun]) -> list[tuple[str, str, str]]:
    """What a continual-learning method adds to the loss, under whatever name it logs it."""
    logged = dict.fromkeys(name for run in runs for values in run.metrics.values() for name in values)
    known = {name for name, _, _ in PANELS}
    extra = [name for name in logged if name.startswith("train/loss/") and name not in known]
    return [(name, f"Loss: {name.removeprefix('train/loss/').replace('_', ' ')}", ".2g") for name in extra]


def _segments(runs: Sequence[TrainingRun], name: str) -> list[Segment]:
    return [
        Segment(label=_stage_name(run), colour=number, points=run.series(name), width=len(run.epochs))
        for number, run in enumerate(runs)
    ]


def _stage_name(run: TrainingRun) -> str:
    if not run.tasks:
        return "All tasks"
    return ("Task " if len(run.tasks) == 1 else "Tasks ") + task_ranges(run.tasks)


def _shower(form: str) -> Callable[[float], str]:
    return lambda value: f"{value:{form}}".replace("-", "−") if abs(value) > 1e-12 else "0"


def _training_words(runs: Sequence[TrainingRun]) -> str:
    epochs = sum(len(run.epochs) for run in runs)
    words = f"Epochs on the horizontal axis, {count(epochs, 'epoch')} in {count(len(runs), 'stage')}. "
    words += "Rollouts explore at the training temperature, so their success may differ from the evaluations above."
    means = {}
    for name in ("time/epoch", "time/rollout", "time/update"):
        values = [value for run in runs for _, value in run.series(name)]
        if values:
            means[name] = sum(values) / len(values)
    if "time/epoch" in means:
        words += f" An epoch took {duration(means['time/epoch'])} on average"
        shares = [f"{duration(means[k])} {k.split('/')[1]}" for k in ("time/rollout", "time/update") if k in means]
        words += f" ({', '.join(shares)})." if shares else "."
    return words
