"""Evaluations as lines of the ledger."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rlinf.config import Config, config_hash
from rlinf.config.schema import with_settings
from rlinf.envs import playable_tasks
from rlinf.reporting import ledger
from rlinf.run_layout import LEDGER_FILE, VIDEOS
from rlinf.runners.evaluation import EvaluationOutcome, evaluate
from rlinf.runners.run_folder import versions
from rlinf.workers.launch import Workers

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class EvaluatedPolicy:
    """Whose evaluation it is; ``row``, ``learnt_tasks`` and so on as in ``ledger.EvaluationRecord``."""

    method: str
    row: str
    learnt_tasks: tuple[int, ...]
    learnt_suite: str
    checkpoint: str
    lora_scale: float = 1.0
    previous_coeff: float | None = None
    probe: bool = False


def on_suite(config: Config, suite: str) -> Config:
    """The configuration with which one of the suites of a row is evaluated."""
    if suite == config.env.suite:
        return config
    return replace(config, env=replace(config.env, suite=suite, eval_suites=[]))


def evaluate_suites(
    workers: Workers,
    config: Config,
    suites: Sequence[str],
    *,
    policy: EvaluatedPolicy | None,
    label: str,
    folder: Path,
    asset_kind: Callable[[str], str],
) -> dict[str, float]:
    """Evaluate all tasks of some suites with the weights that the workers hold, at every temperature that is asked
    for; returns the metrics of all, those of the first temperature under the names that one alone has.

    policy: whose evaluation it is, for the ledger beside the run's ``folder``; None: it is no row of it.
    """
    metrics: dict[str, float] = {}
    given = config.env.eval.temperatures
    for suite in suites:
        one = on_suite(config, suite)
        tasks = playable_tasks(one.env, one.env.eval_task_ids)
        group, on = ("env_info", "") if suite == config.env.suite else (suite, f" on {suite}")
        for temperature in given or [config.algorithm.sampling_params.temperature_eval]:
            at = f" at temperature {temperature:g}" if len(given) > 1 else ""
            own = with_settings(one, {"algorithm.sampling_params.temperature_eval": temperature})
            outcome = evaluate(workers, own, task_ids=tasks, label=label + on + at, video_folder=folder / VIDEOS)
            is_first = temperature in given[:1] or not given
            metrics |= outcome.metrics(group if is_first else f"{group}_temperature_{temperature:g}")
            if policy is not None:
                record = make_record(own, outcome, policy, assets=asset_kind(suite), ledger_folder=folder.parent)
                ledger.append(folder.parent / LEDGER_FILE, record)
            log.info("%s: success %.1f %%", label + on + at, 100 * outcome.success_once)
    return metrics


def make_record(
    config: Config, outcome: EvaluationOutcome, policy: EvaluatedPolicy, *, assets: str, ledger_folder: Path
) -> ledger.EvaluationRecord:
    """A ledger line of an evaluation on ``config.env.suite``."""
    temperature, suite = config.algorithm.sampling_params.temperature_eval, config.env.suite
    measured = {
        **vars(policy),
        **vars(outcome),  # the fields of both have the ledger's names
        "learnt_suite": "" if policy.learnt_suite == suite else policy.learnt_suite,
        "videos": tuple(str(video.relative_to(ledger_folder)) for video in outcome.videos),
    }
    return ledger.EvaluationRecord(
        seed=config.runner.seed,
        suite=suite,
        temperature=temperature,
        decoding="sample" if temperature > 0 else "greedy",
        assets=assets,
        config_hash=config_hash(config),
        versions=versions(),
        time=ledger.utc_now(),
        **measured,
    )
