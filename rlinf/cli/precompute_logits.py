"""``python examples/embodiment/compute_base_logits_embodied_agent.py [CONFIG_NAME] [key=value ...]``: base-model logits
of the demonstrations, for dark experience replay.

They are stored beside the demonstrations, one file each; run again, it computes what is missing or stale. Which
demonstrations: ``method.replay.{demonstrations,demonstrations_per_task}``.
"""

import logging
from collections.abc import Sequence

from rlinf.cli.request import parse
from rlinf.config.places import check_writable
from rlinf.config.schema import Config
from rlinf.custom.replay.base_logits import logits_path
from rlinf.custom.replay.dataset import DemonstrationRef, find_demonstrations
from rlinf.models import PolicySource
from rlinf.reporting.progress import Progress
from rlinf.scheduler.cluster import Cluster, Resources
from rlinf.scheduler.worker_group import WorkerGroup, place_on_gpus
from rlinf.workers.launch import torch_environment
from rlinf.workers.logits import LogitsPrecomputeWorker, divide, threads_per_worker
from rlinf.workers.object_store import object_store_gb

log = logging.getLogger(__name__)

DRY_RUN = "--dry-run"


def main(argv: Sequence[str]) -> int:
    """Compute and store; returns the exit code."""
    words = [word for word in argv if word and word != DRY_RUN]  # an empty CONFIG_NAME is the default
    if words and not words[0].startswith("-") and "=" not in words[0]:
        words = ["--config-name", *words]
    request = parse(
        words,
        prog="compute_base_logits_embodied_agent.py",
        description=f"Compute base-model logits of demonstrations. {DRY_RUN}: only say of which.",
    )
    if request is None:
        return 0
    config = request.config
    refs = find_demonstrations(config.method.replay, suite=config.env.suite, task_ids=None)
    if DRY_RUN in argv:
        for ref in refs:
            state = "there, checked when computing" if logits_path(ref).is_file() else "missing"
            print(f"task {ref.task_id}, {ref.num_steps} frames: {logits_path(ref)} ({state})")
        print("dry run: nothing was started")
        return 0
    for folder in sorted({logits_path(ref).parent.parent for ref in refs}):
        check_writable(folder, setting="method.replay.demonstrations")
    with Cluster(object_store_gb=object_store_gb(config, request.source, learn=False)) as cluster:
        computed = run(config, request.source, refs, cluster.resources)
    log.info("base-model logits of %d demonstrations are there, %d computed now", len(refs), computed)
    for folder in sorted({logits_path(ref).parent.parent for ref in refs}):
        print(folder)
    return 0


def run(config: Config, source: PolicySource, refs: Sequence[DemonstrationRef], resources: Resources) -> int:
    """Compute on all rollout workers; returns how many demonstrations were computed."""
    asked = config.cluster.num_rollout_workers
    count = min(asked if asked > 0 else max(resources.num_gpus, 1), len(refs))
    num_gpus = min(count, resources.num_gpus)
    placement = place_on_gpus(num_gpus, share=num_gpus / count, env_vars=torch_environment())
    threads = threads_per_worker(count)
    group = WorkerGroup(
        "logits",
        LogitsPrecomputeWorker,
        count,
        lambda _: (config, source, threads),
        placement=placement,
        timeout_s=config.runner.call_timeout_s,
        stall_s=config.runner.stall_timeout_s,
        watched=True,
    )
    with Progress("base-model logits", total=len(refs), unit="demonstrations") as bar:
        shares = [(share,) for share in divide(refs, count)]
        computed: list[int] = group.call_each("compute", shares, show=lambda counts: bar.reach(sum(counts)))
        bar.reach(len(refs))
    group.stop()
    return sum(computed)
