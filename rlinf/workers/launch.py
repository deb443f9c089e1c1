"""Starting the worker groups of a run where they belong."""

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rlinf.config import RANDOM_ACTION, ConfigError
from rlinf.config.gpu_memory import settle
from rlinf.config.placement import Place, Placement, place_workers
from rlinf.config.schema import Config, EnvConfig
from rlinf.models import PolicySource
from rlinf.reporting import trace
from rlinf.scheduler.cluster import Resources
from rlinf.scheduler.worker_group import WorkerGroup, WorkerPlacement, reserve_gpus
from rlinf.workers.actor import ActorWorker
from rlinf.workers.env import EnvWorker
from rlinf.workers.random_action import RandomActionRolloutWorker
from rlinf.workers.rollout import RolloutWorker

log = logging.getLogger(__name__)

TORCH_ENVIRONMENT = {
    # Threads that wait for each other spin for some microseconds only: on a machine that does anything else beside,
    # the default makes small layers ten times slower, and not to spin at all half slower on an idle one
    # (docs/benchmarks.md).
    "GOMP_SPINCOUNT": "20000",
    # Freed memory is kept: giving it back to the system after every layer and faulting it in again costs more than the
    # layer on virtual machines.
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**36),
    # How much a CPU may hand to a GPU before that has done it. By default the language model's work, which takes a GPU
    # longer than the CPU, fills the queue, and the towers' many small kernels then make the GPU wait: 20 % of an
    # update (docs/benchmarks.md).
    "CUDA_SCALE_LAUNCH_QUEUES": "4x",
}
COMPILED_CODE = "TORCHINDUCTOR_CACHE_DIR"  # of torch.compile, and of the Triton kernels that it writes
ROLLOUT_WORKERS: dict[str, type[RolloutWorker]] = {
    "policy": RolloutWorker,
    RANDOM_ACTION: RandomActionRolloutWorker,
}
GPU_SHARE = 0.4  # of a GPU, for the learner and for inference each; the rest is for drawing


@dataclass
class Workers:
    """The groups of a run; ``actor`` is None where nothing is learnt."""

    actor: WorkerGroup | None
    rollout: WorkerGroup
    env: WorkerGroup

    def renew(self, config: Config, source: PolicySource) -> None:
        """Serve another run of the same ``shared_settings``: simulators keep their scenes, the others load a policy
        in the processes that they have. Returns before they are ready."""
        self.rollout.renew(lambda _: (config, source))
        if self.actor is not None:
            count = len(self.actor)
            self.actor.renew(lambda rank: (rank, count, config, source))

    def stop(self) -> None:
        """End all workers."""
        for group in (self.actor, self.rollout, self.env):
            if group is not None:
                group.stop()


def fit_to_gpus(config: Config, resources: Resources) -> Config:
    """Choose what the configuration leaves to the GPUs' memory; says what."""
    num_ranks = len(place_workers(config.cluster, resources.nodes).actor)
    settled, lines = settle(config, gpu_gib=resources.gpu_gib, num_ranks=num_ranks)
    for line in lines:
        log.info(line)
    return settled


def check_workers(config: Config, resources: Resources, *, learn: bool = True) -> Placement:
    """A place for every worker; for no learner unless ``learn``.

    Raises:
        ConfigError: what the configuration asks for cannot work on this cluster.
    """
    placement = place_workers(config.cluster, resources.nodes)
    if not learn:
        return replace(placement, actor=())
    ranks = len(placement.actor)
    if config.actor.global_batch_size % (config.actor.micro_batch_size * ranks):
        raise ConfigError(
            f"actor.global_batch_size={config.actor.global_batch_size} must be a multiple of "
            f"actor.micro_batch_size * ranks = {config.actor.micro_batch_size} * {ranks}"
        )
    return placement


def torch_environment() -> dict[str, str]:
    """Environment of processes that hold a policy. Compiled code goes to the user's cache, where later runs find it:
    torch's own choice is a folder of /tmp, which machines clear."""
    home = os.environ.get("XDG_CACHE_HOME", "").strip() or str(Path.home() / ".cache")
    folder = os.environ.get(COMPILED_CODE) or str(Path(home, "continual-vla-rl", "torchinductor"))
    return {**{name: os.environ.get(name, value) for name, value in TORCH_ENVIRONMENT.items()}, COMPILED_CODE: folder}


def env_settings(config: Config) -> EnvConfig:
    """What a simulator process knows: nothing of a run's own tasks, so that it serves any run."""
    return replace(config.env, fixed_task_ids=None)


def shared_settings(config: Config) -> tuple[object, ...]:
    """What workers are started with; runs in which it is equal can have the same ones."""
    deadlines = config.runner.call_timeout_s, config.runner.stall_timeout_s
    return env_settings(config), config.cluster, config.rollout.worker, deadlines, config.runner.trace


def ids(places: Sequence[Place]) -> list[str]:
    """Ray's ids of nodes, none where workers may be anywhere."""
    return [place.node.id for place in places if place.node is not None]


def start_workers(config: Config, resources: Resources, *, source: PolicySource, learn: bool) -> Workers:
    """Start simulators and inference, and learners when ``learn``; returns before they are ready."""
    placement = check_workers(config, resources, learn=learn)
    if len(resources.nodes) > 1 or config.cluster.component_placement is not None:
        log.info("where workers run:\n%s", placement.table())
    timeout = config.runner.call_timeout_s
    traces = {trace.VARIABLE: "1"} if learn and config.runner.trace else {}
    gpus = sorted({place for place in (*placement.actor, *placement.rollout) if place.gpu is not None})
    group = reserve_gpus([place.node.id if place.node else None for place in gpus]) if gpus else None
    torch_env = torch_environment() | traces

    def on(places: Sequence[Place]) -> WorkerPlacement:
        """A share of their GPUs; without any, on their nodes."""
        if group is None:
            return WorkerPlacement(nodes=ids(places), env_vars=torch_env)
        bundles = [gpus.index(place) for place in places]
        return WorkerPlacement(num_gpus=GPU_SHARE, group=group, bundles=bundles, env_vars=torch_env)

    single = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    env = WorkerGroup(
        "env",
        EnvWorker,
        len(placement.env),
        lambda index: (env_settings(config), placement.env[index].gpu),
        placement=WorkerPlacement(nodes=ids(placement.env), env_vars=single | traces),
        timeout_s=timeout,
        restarted=True,
    )
    rollout = WorkerGroup(
        "rollout",
        ROLLOUT_WORKERS[config.rollout.worker],
        len(placement.rollout),
        lambda _: (config, source),
        placement=on(placement.rollout),
        timeout_s=timeout,
        stall_s=config.runner.stall_timeout_s,
        watched=True,
        max_replaced=config.runner.max_restarts,
    )
    actor = None
    if learn:
        count = len(placement.actor)
        actor = WorkerGroup(
            "actor",
            ActorWorker,
            count,
            lambda rank: (rank, count, config, source),
            placement=on(placement.actor),
            timeout_s=timeout,
            stall_s=config.runner.stall_timeout_s,
            watched=True,
        )
    return Workers(actor, rollout, env)


def attach_envs(workers: Workers) -> None:
    """Give every inference worker its share of the simulator processes.

    Raises:
        ValueError: what a constructor raised, as it raised it; see also ``WorkerGroup.wait``.
    """
    workers.env.ready()
    count = len(workers.rollout)
    shares = [(workers.env.workers[index::count],) for index in range(count)]
    workers.rollout.tell_each("attach", shares)
