"""Evaluations as lines of the ledger."""

from dataclasses import dataclass, replace
from pathlib import Path

from rlinf.config import Config, config_hash
from rlinf.reporting import ledger
from rlinf.runners.evaluation import EvaluationOutcome
from rlinf.runners.run_folder import versions


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


def metrics_group(config: Config, suite: str) -> str:
    """What the metrics of a suite are called: as in the user's document, and by their names for further ones."""
    return "env_info" if suite == config.env.suite else suite


def make_record(
    config: Config, outcome: EvaluationOutcome, policy: EvaluatedPolicy, *, assets: str, ledger_folder: Path
) -> ledger.EvaluationRecord:
    """A ledger line of an evaluation on ``config.env.suite``."""
    temperature, suite = config.algorithm.sampling_params.temperature_eval, config.env.suite
    return ledger.EvaluationRecord(
        method=policy.method,
        row=policy.row,
        learnt_tasks=policy.learnt_tasks,
        seed=config.runner.seed,
        suite=suite,
        learnt_suite="" if policy.learnt_suite == suite else policy.learnt_suite,
        checkpoint=policy.checkpoint,
        success=outcome.success,
        episodes=outcome.episodes,
        success_once=outcome.success_once,
        success_at_end=outcome.success_at_end,
        mean_return=outcome.mean_return,
        mean_episode_len=outcome.mean_episode_len,
        temperature=temperature,
        decoding="sample" if temperature > 0 else "greedy",
        init_states=outcome.init_states,
        lora_scale=policy.lora_scale,
        previous_coeff=policy.previous_coeff,
        probe=policy.probe,
        assets=assets,
        config_hash=config_hash(config),
        versions=versions(),
        time=ledger.utc_now(),
        wall_seconds=outcome.wall_seconds,
        videos=tuple(str(video.relative_to(ledger_folder)) for video in outcome.videos),
    )
