"""``python examples/embodiment/eval_embodied_agent.py --config-name NAME [key=value ...]``: per-task success."""

import logging
import pprint
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from libero_runtime.suites import standard_suite
from rlinf.cli.request import Request, parse
from rlinf.config import RANDOM_ACTION, REPOSITORY, config_hash
from rlinf.custom.sequence.lineage import Lineage, is_as_trained
from rlinf.envs import playable_tasks
from rlinf.envs.registry import simulator
from rlinf.reporting import ledger
from rlinf.reporting.loggers import MetricLogger
from rlinf.run_layout import BASE_ROW, LEDGER_FILE, VIDEOS, task_name
from rlinf.runners import evaluation
from rlinf.runners.records import EvaluatedPolicy, make_record, metrics_group, on_suite
from rlinf.runners.run_folder import run_folder
from rlinf.scheduler.cluster import Cluster
from rlinf.workers.launch import attach_envs, fit_to_gpus, start_workers
from rlinf.workers.object_store import object_store_gb

log = logging.getLogger(__name__)


def shown(path: Path) -> str:
    """A path as the ledger names it: relative to the repository where it lies inside."""
    return str(path.relative_to(REPOSITORY) if path.is_relative_to(REPOSITORY) else path)


def main(argv: Sequence[str]) -> int:
    """Evaluate the base model, or the adapter in ``actor.model.lora_path``; returns the exit code."""
    description = "Measure per-task success of a policy."
    request = parse(argv, prog="eval_embodied_agent.py", description=description, learns=False)
    if request is not None:
        evaluate(request)
    return 0


def evaluate(request: Request) -> None:
    """Evaluate as asked for: lines of the ledger, metrics and videos.

    Raises:
        FolderInUseError: another process does the same.
    """
    # Other evaluations of the same run, and its training, write other things.
    with request.alone(f".evaluating_{config_hash(request.config)}"):
        _evaluate(request)


def _evaluate(request: Request) -> None:
    config, policy = request.config, _policy(request)
    sim = simulator(config.env.simulator)
    sim.prepare()
    folder = run_folder(config)
    path = folder.parent / LEDGER_FILE
    metrics: dict[str, float] = {}
    with Cluster(object_store_gb=object_store_gb(config, request.source, learn=False)) as cluster:
        config = fit_to_gpus(config, cluster.resources)
        workers = start_workers(config, cluster.resources, source=request.source, learn=False)
        attach_envs(workers)
        label = f"evaluation at scale {policy.lora_scale:g}" if policy and policy.probe else "evaluation"
        for suite in (config.env.suite, *config.env.eval_suites):
            one = on_suite(config, suite)
            name = label if suite == config.env.suite else f"{label} on {suite}"
            tasks = playable_tasks(one.env, one.env.eval_task_ids)
            outcome = evaluation.evaluate(workers, one, task_ids=tasks, label=name, video_folder=folder / VIDEOS)
            metrics |= outcome.metrics(metrics_group(config, suite))
            if policy is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
                assets = sim.asset_kind(suite)
                ledger.append(path, make_record(one, outcome, policy, assets=assets, ledger_folder=path.parent))
    logger = config.runner.logger
    with MetricLogger(
        folder,
        backends=logger.logger_backends,
        project=logger.project_name,
        experiment=f"{logger.experiment_name or folder.name} evaluation",
        config=asdict(config),
    ) as metric_logger:
        metric_logger.log(metrics, 0)
    pprint.pprint(metrics, sort_dicts=False)


def _policy(request: Request) -> EvaluatedPolicy | None:
    """Whose evaluation it is; None for an adapter of unknown origin, which has no place in the matrix."""
    config, adapter = request.config, request.adapter
    model = config.actor.model
    lineage = Lineage.load(adapter) if adapter else None
    is_base = adapter is None and not model.previous_lora_paths
    if lineage is None and not is_base:
        return None
    nobody = "random actions" if config.rollout.worker == RANDOM_ACTION else BASE_ROW
    return EvaluatedPolicy(
        method=lineage.method if lineage else config.results_name,
        row=task_name(lineage.stage) if lineage else BASE_ROW,
        learnt_tasks=lineage.learnt_tasks if lineage else (),
        learnt_suite=lineage.suite if lineage else standard_suite(config.env.suite),
        checkpoint=shown(adapter) if adapter else nobody,
        lora_scale=1.0 if model.lora_scale is None else model.lora_scale,
        previous_coeff=model.previous_lora_coeff if model.previous_lora_paths else None,
        probe=not is_as_trained(config, lineage),
    )
