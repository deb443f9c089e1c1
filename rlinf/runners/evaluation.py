"""Evaluation: per-task success of a policy over published initial states, and its lines of the ledger."""

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import reduce
from pathlib import Path

from libero_runtime.commands import number_ranges
from rlinf.config import Config, config_hash
from rlinf.config.schema import with_settings
from rlinf.custom.methods.dwe import Player, players
from rlinf.custom.sequence.lineage import Lineage
from rlinf.data import Collected, CollectRequest, EpisodePlan, EpisodeResult
from rlinf.envs import init_states, playable_tasks, suite_tasks
from rlinf.envs.episodes import evaluation_plans
from rlinf.envs.vector_env import VIDEO_STRIDE
from rlinf.reporting import ledger
from rlinf.reporting.ledger import EvaluatedPolicy, Outcome
from rlinf.reporting.video import write_video
from rlinf.run_layout import BASE_ROW, LEDGER_FILE, VIDEOS, task_name
from rlinf.runners.collect import collect
from rlinf.runners.run_folder import versions
from rlinf.workers.launch import Workers

log = logging.getLogger(__name__)

EVALUATION_STREAM = 1_000_003  # keeps the action noise of evaluations apart from that of training


def evaluate(
    workers: Workers, config: Config, *, task_ids: Sequence[int], label: str, folder: Path
) -> Outcome:
    """Play ``env.eval.episodes_per_task`` episodes of each task with the weights that the workers hold, or with an
    adapter per task with each task's own.

    Same seed, same initial states and action noise: on a CPU differences between two evaluations come from the
    weights. On a GPU rounding goes with what else is in a batch, and a sampled action in the balance may fall the
    other way.
    folder: the run's, which films go to.
    """
    started = time.monotonic()
    infos = suite_tasks(config.env)
    for info in infos:
        if info.fault:
            log.warning("task %d of %s is not evaluated: %s", info.task_id, config.env.suite, info.fault)
    plans = evaluation_plans(
        suite=config.env.suite,
        task_ids=task_ids,
        init_states=init_states(config.env, "eval", task_ids),
        episodes_per_task=config.env.eval.episodes_per_task,
        seed=config.runner.seed,
    )
    shown = config.env.fixed_task_ids or task_ids
    candidates = sorted(plans, key=lambda plan: (plan.init_index, plan.task_id not in shown, plan.task_id))
    request = CollectRequest(
        tuple(plans),
        config.env.eval,
        temperature=config.algorithm.sampling_params.temperature_eval,
        stream=(config.runner.seed, EVALUATION_STREAM),
        keep_samples=False,
        video_episodes=frozenset(plan.episode for plan in candidates[: config.env.video_episodes]),
    )
    player_of, shares = players(config, task_ids), defaultdict[Player, list[EpisodePlan]](list)
    for plan in plans:
        shares[player_of[plan.task_id]].append(plan)
    parts = []
    for player, share in shares.items():
        own = replace(request, plans=tuple(share), adapter=player.adapter, lora_scale=player.scale)
        tasks = f", tasks {number_ranges(plan.task_id for plan in share)}" if len(shares) > 1 else ""
        parts.append(collect(workers, own, label=label + tasks))
    collected = reduce(Collected.then, parts)
    videos = []
    for result, frames in collected.videos:
        if not frames:
            log.warning("no video of task %d: its episode ended at once", result.plan.task_id)
            continue
        name = f"{label.replace(' ', '_')}_task_{result.plan.task_id}_init_{result.plan.init_index}.webp"
        steps = [min((1 + frame) * VIDEO_STRIDE, result.num_steps) for frame in range(len(frames))]
        task = infos[result.plan.task_id].language
        path = write_video(folder / VIDEOS / name, frames, task=task, success=result.success_once, steps=steps)
        videos.append(str(path.relative_to(folder.parent)))
    return summarize(collected.results, wall_seconds=time.monotonic() - started, videos=tuple(videos))


def summarize(
    results: Sequence[EpisodeResult], *, wall_seconds: float, videos: tuple[str, ...] = ()
) -> Outcome:
    """Averages over episodes, per task and over all; a task's success counts success at any time in the episode."""
    by_task: dict[int, list[bool]] = defaultdict(list)
    states: dict[int, set[int]] = defaultdict(set)
    for result in results:
        by_task[result.plan.task_id].append(result.success_once)
        states[result.plan.task_id].add(result.plan.init_index)
    count = len(results)
    return Outcome(
        success={task: sum(wins) / len(wins) for task, wins in sorted(by_task.items())},
        episodes={task: len(wins) for task, wins in sorted(by_task.items())},
        success_once=sum(result.success_once for result in results) / count,
        success_at_end=sum(result.success_at_end for result in results) / count,
        mean_return=sum(result.total_reward for result in results) / count,
        mean_episode_len=sum(result.num_steps for result in results) / count,
        wall_seconds=wall_seconds,
        videos=videos,
        init_states={task: number_ranges(indices) for task, indices in sorted(states.items())},
    )


def base_policy(config: Config, *, learnt_suite: str, checkpoint: str = BASE_ROW) -> EvaluatedPolicy:
    """What has learnt nothing yet."""
    return EvaluatedPolicy(
        method=config.results_name, row=BASE_ROW, learnt_tasks=(), learnt_suite=learnt_suite, checkpoint=checkpoint
    )


def trained_policy(config: Config, lineage: Lineage, checkpoint: str) -> EvaluatedPolicy:
    """What a checkpoint's policy has learnt, with the factors that it is evaluated with."""
    model = config.actor.model
    return EvaluatedPolicy(
        method=lineage.method,
        row=task_name(lineage.stage),
        learnt_tasks=lineage.learnt_tasks,
        learnt_suite=lineage.suite,
        checkpoint=checkpoint,
        lora_scale=1.0 if model.lora_scale is None else model.lora_scale,
        previous_coeff=model.previous_lora_coeff if model.previous_lora_paths else None,
    )


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
            outcome = evaluate(workers, own, task_ids=tasks, label=label + on + at, folder=folder)
            is_first = temperature in given[:1] or not given
            metrics |= outcome.metrics(group if is_first else f"{group}_temperature_{temperature:g}")
            if policy is not None:
                record = make_record(own, outcome, policy, assets=asset_kind(suite))
                ledger.append(folder.parent / LEDGER_FILE, record)
            log.info("%s: success %.1f %%", label + on + at, 100 * outcome.success_once)
    return metrics


def make_record(config: Config, outcome: Outcome, policy: EvaluatedPolicy, *, assets: str) -> ledger.EvaluationRecord:
    """A ledger line of an evaluation on ``config.env.suite``."""
    temperature, suite = config.algorithm.sampling_params.temperature_eval, config.env.suite
    learnt_suite = "" if policy.learnt_suite == suite else policy.learnt_suite
    return ledger.EvaluationRecord(
        seed=config.runner.seed,
        suite=suite,
        temperature=temperature,
        decoding="sample" if temperature > 0 else "greedy",
        assets=assets,
        config_hash=config_hash(config),
        versions=versions(),
        time=ledger.utc_now(),
        **{**vars(policy), **vars(outcome), "learnt_suite": learnt_suite},
    )
