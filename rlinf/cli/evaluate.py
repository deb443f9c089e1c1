"""``python examples/embodiment/eval_embodied_agent.py --config-name NAME [key=value ...]``: per-task success."""

import logging
import pprint
from collections.abc import Sequence
from dataclasses import replace

from libero_runtime.suites import standard_suite
from rlinf.cli.request import Request, parse
from rlinf.config import RANDOM_ACTION, REPOSITORY, config_hash
from rlinf.custom.sequence.lineage import Lineage, is_as_trained
from rlinf.custom.sequence.locations import Workspace
from rlinf.envs.registry import simulator
from rlinf.reporting.ledger import EvaluatedPolicy
from rlinf.run_layout import BASE_ROW
from rlinf.runners.evaluation import base_policy, evaluate_suites, trained_policy
from rlinf.runners.run_folder import run_folder
from rlinf.scheduler.cluster import Cluster
from rlinf.workers.launch import attach_envs, fit_to_gpus, start_workers
from rlinf.workers.object_store import object_store_gb

log = logging.getLogger(__name__)


def main(argv: Sequence[str]) -> int:
    """Evaluate the base model, or the adapter in ``actor.model.lora_path``; returns the exit code."""
    description = "Measure per-task success of a policy."
    request = parse(argv, prog="eval_embodied_agent.py", description=description, learns=False)
    if request is not None:
        evaluate(request)
    return 0


def evaluate(request: Request) -> None:
    """Evaluate as asked for: lines of the ledger, videos, and the metrics on the screen; what training logged in the
    same folder stays as it is.

    Raises:
        FolderInUseError: another process does the same.
    """
    config, policy = request.config, evaluated_policy(request)
    # Other evaluations of the same run, and its training, write other things.
    with request.alone(f".evaluating_{config_hash(config)}"):
        sim = simulator(config.env.simulator)
        sim.prepare()
        folder = run_folder(config)
        with Cluster(object_store_gb=object_store_gb(config, request.source, learn=False)) as cluster:
            config = fit_to_gpus(config, cluster.resources)
            workers = start_workers(config, cluster.resources, source=request.source, learn=False)
            attach_envs(workers)
            label = f"evaluation at scale {policy.lora_scale:g}" if policy and policy.probe else "evaluation"
            suites = (config.env.suite, *config.env.eval_suites)
            metrics = evaluate_suites(
                workers, config, suites, policy=policy, label=label, folder=folder, asset_kind=sim.asset_kind
            )
        pprint.pprint(metrics, sort_dicts=False)


def evaluated_policy(request: Request) -> EvaluatedPolicy | None:
    """Whose evaluation it is; None for an adapter of unknown origin, which has no place in the matrix."""
    config, adapter = request.config, request.adapter
    model = config.actor.model
    lineage = Lineage.load(adapter) if adapter else None
    is_base = adapter is None and not model.previous_lora_paths and not model.task_lora_paths
    if lineage is None and not is_base:
        return None
    if lineage is None:
        nobody = "random actions" if config.rollout.worker == RANDOM_ACTION else BASE_ROW
        return base_policy(config, learnt_suite=standard_suite(config.env.suite), checkpoint=nobody)
    assert adapter is not None
    checkpoint = Workspace(root=REPOSITORY, called_from=REPOSITORY).show(adapter)
    return replace(trained_policy(config, lineage, checkpoint), probe=not is_as_trained(config, lineage))
