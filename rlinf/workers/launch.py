"""Starting the worker groups of a run where they belong."""

import logging
import os
from dataclasses import dataclass, replace
from pathlib import Path

from rlinf.config import RANDOM_ACTION, ConfigError
from rlinf.config.gpu_memory import settle
from rlinf.config.schema import Config, EnvConfig
from rlinf.models import PolicySource
from rlinf.reporting import trace
from rlinf.scheduler.cluster import Resources
from rlinf.scheduler.worker_group import WorkerGroup, WorkerPlacement, place_on_gpus
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


@dataclass(frozen=True)
class WorkerCounts:
    """Workers of each kind."""

    actor: int
    rollout: int
    env: int


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
    asked = config.cluster.num_actor_workers
    ranks = asked if asked != -1 else max(resources.num_gpus, 1)
    settled, lines = settle(config, gpu_gib=resources.gpu_gib, num_ranks=ranks)
    for line in lines:
        log.info(line)
    return settled


def count_workers(config: Config, resources: Resources) -> WorkerCounts:
    """Fill in the counts that the configuration leaves open (-1).

    Raises:
        ConfigError: a count that cannot work.
    """
    per_gpu = max(resources.num_gpus, 1)
    asked = config.cluster
    actor = asked.num_actor_workers if asked.num_actor_workers != -1 else per_gpu
    rollout = asked.num_rollout_workers if asked.num_rollout_workers != -1 else per_gpu
    spare = resources.num_cpus - resources.num_gpus
    env = asked.num_env_workers if asked.num_env_workers != -1 else max(spare, rollout)
    for key, count in (("num_actor_workers", actor), ("num_rollout_workers", rollout), ("num_env_workers", env)):
        if count < 1:
            raise ConfigError(f"cluster.{key}={count} must be at least 1, or -1 to choose by the machine")
    if env < rollout:
        raise ConfigError(
            f"cluster.num_env_workers={env} must be at least cluster.num_rollout_workers={rollout}: every inference "
            "worker needs a simulator process"
        )
    if resources.num_gpus and max(actor, rollout) > resources.num_gpus:
        raise ConfigError(
            f"cluster.num_actor_workers={actor} and cluster.num_rollout_workers={rollout} must not exceed the "
            f"{resources.num_gpus} GPUs of the cluster"
        )
    unit = config.actor.micro_batch_size * actor
    if config.actor.global_batch_size % unit:
        raise ConfigError(
            f"actor.global_batch_size={config.actor.global_batch_size} must be a multiple of "
            f"actor.micro_batch_size * ranks = {config.actor.micro_batch_size} * {actor}"
        )
    return WorkerCounts(actor, rollout, env)


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


def start_workers(config: Config, resources: Resources, *, source: PolicySource, learn: bool) -> Workers:
    """Start simulators and inference, and learners when ``learn``; returns before they are ready."""
    counts = count_workers(config, resources)
    timeout = config.runner.call_timeout_s
    num_gpus = max(counts.actor, counts.rollout) if resources.num_gpus else 0
    traces = {trace.VARIABLE: "1"} if learn and config.runner.trace else {}
    placement = place_on_gpus(num_gpus, share=GPU_SHARE, env_vars=torch_environment() | traces)
    gpus_per_node = resources.num_gpus // resources.num_nodes
    single = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    env = WorkerGroup(
        "env",
        EnvWorker,
        counts.env,
        lambda index: (env_settings(config), index % gpus_per_node if gpus_per_node else None),
        placement=WorkerPlacement(env_vars=single | traces),
        timeout_s=timeout,
        replaceable=True,
    )
    rollout = WorkerGroup(
        "rollout",
        ROLLOUT_WORKERS[config.rollout.worker],
        counts.rollout,
        lambda _: (config, source),
        placement=placement,
        timeout_s=timeout,
        stall_s=config.runner.stall_timeout_s,
        watched=True,
    )
    actor = None
    if learn:
        actor = WorkerGroup(
            "actor",
            ActorWorker,
            counts.actor,
            lambda rank: (rank, counts.actor, config, source),
            placement=placement,
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
    workers.rollout.wait(workers.rollout.submit_each("attach", shares))
