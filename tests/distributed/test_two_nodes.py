"""A run on two nodes, here of one machine: all but the learner have the second, and the run goes on when that
is lost."""

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import ray
from ray.cluster_utils import Cluster as Nodes

from benchmarks.chaos import parent, processes, same_adapters
from rlinf.cli.request import check
from rlinf.cli.train import train
from rlinf.config import load_config
from rlinf.scheduler.cluster import Cluster
from rlinf.scheduler.ray_settings import configure_ray
from rlinf.scheduler.worker_group import WorkerGroup, WorkerPlacement
from rlinf.workers.session import Session
from tests.e2e.test_collection import Watched, play, same
from tests.e2e.toy_simulator import Simulator
from tests.launchers import SEED, SMALL, TINY, of_model

LOOPBACK = "127.0.0.1"  # with any other address Ray would listen everywhere
# A node that says nothing for 2 s is taken for lost, where Ray waits 15.
SOON = {"health_check_initial_delay_ms": 500, "health_check_period_ms": 500, "health_check_failure_threshold": 3}
OPTIONS = {"object_store_memory": 200 * 2**20, "include_dashboard": False}
PLACEMENT = (
    "cluster.component_placement={actor:0,rollout:{node_group:second,placement:0},env:{node_group:second,placement:all}}",
    "cluster.node_groups=[{label:second,node_ranks:1}]",
    "cluster.num_env_workers=-1",
)


@pytest.fixture(scope="module")
def nodes():
    """A cluster's head, which ``RAY_ADDRESS`` names."""
    with TemporaryDirectory(prefix="two_", dir="/tmp") as folder, pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        configure_ray()
        # Of what was configured, Ray reads this when it is imported, which another test may have done.
        patch.setattr("ray._private.ray_constants.ENABLE_RAY_CLUSTER", False)
        cluster = Nodes()
        cluster.add_node(num_cpus=1, node_ip_address=LOOPBACK, temp_dir=folder, _system_config=SOON, **OPTIONS)
        patch.setenv("RAY_ADDRESS", cluster.address)
        yield cluster
        cluster.shutdown()


class SecondNode:
    """A second node with two CPUs."""

    def __init__(self, nodes: Nodes) -> None:
        self._nodes = nodes
        self._node = nodes.add_node(num_cpus=2, node_ip_address=LOOPBACK, **OPTIONS)

    def has(self, *kinds: str) -> bool:
        """Whether workers of these classes are on it. Ray starts some elsewhere where the head has not heard of the
        node for a while, as happens on a busy machine."""
        names = [name for _, name in self._workers()]
        return all(any(f"ray::{kind}" in name for name in names) for kind in kinds)

    def lose(self, *, outlived: bool = False) -> None:
        """Kill it, once, and at once: the collection that it is lost in takes a second. outlived: by its workers, which
        look for their raylet from time to time."""
        workers = [] if outlived else self._workers()
        for pid in (self._raylet, *(pid for pid, _ in workers)):
            os.kill(pid, signal.SIGKILL)
        self._nodes.remove_node(self._node, allow_graceful=False)

    @property
    def _raylet(self) -> int:
        return self._node.all_processes["raylet"][0].process.pid

    def _workers(self) -> list[tuple[int, str]]:
        return [(pid, name) for pid, name in processes("") if parent(pid) == self._raylet]


@pytest.fixture
def second(nodes):
    node = SecondNode(nodes)
    with Cluster(object_store_gb=0.1):
        only_there = ray.remote(num_cpus=2)(lambda: None)
        ray.get(only_there.remote())  # now the head knows it, and sends there what belongs there
    return node


class Losing(Watched):
    """Acts for the first time when a simulator has already shown more, which nobody has fetched: that is lost."""

    def __init__(self, lose: Callable[[], None]) -> None:
        super().__init__()
        self._lose: Callable[[], None] | None = lose

    def act(self, *inputs, **options):
        if self._lose is not None:
            time.sleep(1)
            self._lose()
            self._lose = None
        return super().act(*inputs, **options)


def _simulator_on(second: SecondNode, node: str) -> WorkerGroup:
    """One simulator, which shows so much that an answer is no longer sent with the call's end."""
    for _ in range(10):
        placement = WorkerPlacement(nodes=[node])
        group = WorkerGroup("env", Simulator, 1, lambda _: (256,), placement=placement, timeout_s=60, restarted=True)
        group.ready()
        if second.has("Simulator"):
            return group
        group.stop()
    raise AssertionError("no simulator was started on the second node")


def test_what_a_lost_node_had_to_show_is_played_again(second):
    with Cluster(object_store_gb=0.1) as cluster:
        group = _simulator_on(second, cluster.resources.nodes[1].id)
        how = {"episodes": range(4), "num_envs": 2, "max_batch": 1, "seconds": 0.2}
        _, expected, _, _ = play(group.workers, **how)
        collected, batch, _, _ = play(group.workers, **how, policy=Losing(second.lose), max_replaced=1)
        assert collected.num_replaced == 1
        assert same(batch, expected)


class Asking:
    """Asks Ray for something all the time."""

    def ask(self, seconds: float) -> str:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            ray.wait([ray.put(0)])
        return "done"


def test_a_worker_that_outlives_its_node_for_a_moment_is_replaced(second):
    """All that it asks of Ray fails, until it ends."""
    with Cluster(object_store_gb=0.1) as cluster:
        placement = WorkerPlacement(nodes=[cluster.resources.nodes[1].id])
        # A second time where the head, which has not heard of the loss, sends the first one to the same node.
        group = WorkerGroup("asking", Asking, 1, lambda _: (), placement=placement, timeout_s=60, max_replaced=2)
        group.ready()
        losing = threading.Timer(0.5, lambda: second.lose(outlived=True))
        losing.start()
        assert group.call("ask", 3.0) == ["done"]
        losing.join()


def _train(session: Session, model: Path, logs: Path) -> Path:
    overrides = [
        *SMALL, *PLACEMENT, *of_model(model), f"runner.logger.log_root={logs}",
        f"runner.seed={SEED}", "runner.max_epochs=2", "env.fixed_task_ids=[0]", "algorithm.entropy_bonus=1.0",
        "algorithm.rollout_epoch=2", "env.train.max_episode_steps=96", "cluster.object_store_gb=0.1",
        "runner.eval_before=false", "runner.eval_after=false",
    ]  # fmt: skip
    train(check(load_config(TINY, overrides), config_name=TINY, overrides=overrides), session)
    return _folder(logs)


def _folder(logs: Path) -> Path:
    return logs / "sequential" / f"task_0_seed{SEED}"


def test_a_run_goes_on_with_the_same_bits_when_the_node_of_inference_and_simulators_is_lost(
    second, small_policy, tmp_path, caplog
):
    caplog.set_level("INFO")
    disturbed = tmp_path / "disturbed"

    def lose_later() -> None:
        """While the second epoch is collected."""
        while not (_folder(disturbed) / "checkpoints" / "global_step_1").exists():
            time.sleep(0.02)
        second.lose()

    losing = threading.Thread(target=lose_later, daemon=True)
    for attempt in range(3):
        undisturbed = tmp_path / f"undisturbed_{attempt}"
        with Session() as session:
            _train(session, small_policy, undisturbed)
            if not second.has("EnvWorker", "RolloutWorker"):
                continue
            losing.start()
            _train(session, small_policy, disturbed)
        break
    losing.join(timeout=60)
    table = next(record.getMessage() for record in caplog.records if "where workers run" in record.getMessage())
    assert table.splitlines()[2:] == [
        f"  actor 0    0: {LOOPBACK}  -",
        f"  rollout 0  1: {LOOPBACK}  -",
        f"  env 0-1    1: {LOOPBACK}  -",
    ]
    assert "replaced: rollout 0" in caplog.text
    assert same_adapters(undisturbed, disturbed)
