"""``python examples/embodiment/eval_embodied_agent.py --config-name NAME [key=value ...]``: per-task success."""

import logging
import pprint
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rlinf.cli.request import Request, parse
from rlinf.config import RANDOM_ACTION, REPOSITORY, config_hash

log = logging.getLogger(__name__)


def shown(path: Path) -> str:
    """A path as the ledger names it: relative to the repository where it lies inside."""
    return str(path.relative_to(REPOSITORY) if path.is_relative_to(REPOSITORY) else path)


def main(argv: Sequence[str]) -> int:
    """Evaluate the base model, or the adapter in ``actor.model.lora_path``; returns the exit code."""
    request = parse(argv, prog="eval_embodied_agent.py", description="Measure per-task success of a policy.")
    if request is None:
        return 0
    # Other evaluations of the same run, and its training, write other things.
    with request.alone(f".evaluating_{config_hash(request.config)}"):
        run(request)
    return 0


def run(request: Request) -> None:
    """Evaluate as asked for: a line of the ledger, metrics and videos."""
    from rlinf.custom.lineage import Lineage, is_as_trained
    from rlinf.custom.tasks import task_name
    from rlinf.envs import suite_tasks
    from rlinf.envs.registry import simulator
    from rlinf.reporting import ledger
    from rlinf.reporting.loggers import MetricLogger
    from rlinf.runners.embodied import make_record
    from rlinf.runners.evaluation import evaluate
    from rlinf.runners.run_folder import LEDGER_FILE, run_folder
    from rlinf.scheduler.cluster import Cluster
    from rlinf.workers.launch import attach_envs, fit_to_gpus, start_workers
    from rlinf.workers.object_store import object_store_gb

    config = request.config
    model = config.actor.model
    lineage = Lineage.load(request.adapter) if request.adapter else None
    probe = not is_as_trained(config, lineage)
    scale = 1.0 if model.lora_scale is None else model.lora_scale
    sim = simulator(config.env.simulator)
    sim.prepare()
    folder = run_folder(config)
    with Cluster(object_store_gb=object_store_gb(config, request.source, learn=False)) as cluster:
        config = fit_to_gpus(config, cluster.resources)
        workers = start_workers(config, cluster.resources, source=request.source, learn=False)
        attach_envs(workers)
        label = f"evaluation at scale {scale:g}" if probe else "evaluation"
        asked = config.env.eval_task_ids
        tasks = list(range(len(suite_tasks(config.env)))) if asked is None else asked
        outcome = evaluate(workers, config, task_ids=tasks, label=label, video_folder=folder / "videos")
    learnt = lineage.learnt_tasks if lineage else ()
    row = task_name(lineage.stage) if lineage else ledger.BASE_ROW
    is_base = request.adapter is None and not model.previous_lora_paths
    if lineage is not None or is_base:  # an adapter of unknown origin has no place in the matrix
        path = folder.parent / LEDGER_FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        nobody = "random actions" if config.rollout.worker == RANDOM_ACTION else ledger.BASE_ROW
        checkpoint = shown(request.adapter) if request.adapter else nobody
        record = make_record(
            config,
            outcome,
            row,
            learnt,
            checkpoint,
            sim.asset_kind(config.env.suite),
            path.parent,
            lora_scale=scale,
            previous_coeff=model.previous_lora_coeff if model.previous_lora_paths else None,
            probe=probe,
            method=lineage.method if lineage else None,
        )
        ledger.append(path, record)
    logger = config.runner.logger
    with MetricLogger(
        folder,
        backends=logger.logger_backends,
        project=logger.project_name,
        experiment=f"{logger.experiment_name or folder.name} evaluation",
        config=asdict(config),
    ) as metrics:
        metrics.log(outcome.metrics(), 0)
    pprint.pprint(outcome.metrics(), sort_dicts=False)
