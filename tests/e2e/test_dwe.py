"""Evaluations with an adapter per task: toy episodes tell what was done in them; real ones: test_runs.py."""

from rlinf.config import load_config
from rlinf.custom.sequence.lineage import Lineage
from rlinf.models import PolicySource
from rlinf.runners import evaluation
from rlinf.scheduler.cluster import Cluster
from rlinf.scheduler.worker_group import WorkerGroup, WorkerPlacement
from rlinf.workers.launch import Workers, attach_envs
from rlinf.workers.rollout import RolloutWorker
from tests.e2e.toy_simulator import NUM_ACTIONS, Simulator
from tests.launchers import TINY
from tests.small_policy import write_adapter, write_policy


def test_tasks_are_played_as_by_their_adapter_alone_and_others_as_by_the_base(tmp_path, monkeypatch):
    """Bit for bit: an episode's return is the sum of its actions, which depend on episode and weights alone."""
    policy = write_policy(tmp_path / "policy", num_actions=NUM_ACTIONS)
    first, second = (write_adapter(policy, tmp_path / f"task_{task}", seed=task) for task in range(2))
    Lineage("dwe", "libero_spatial", 7, (0,), (0,), str(policy), experts=()).save(first)
    Lineage("dwe", "libero_spatial", 7, (0, 1), (1,), str(policy), experts=(str(first),)).save(second)
    results, summarize = [], evaluation.summarize
    monkeypatch.setattr(
        evaluation, "summarize", lambda found, **about: results.append(found) or summarize(found, **about)
    )

    def config(*overrides: str):
        small = [f"actor.checkpoint_load_path={policy}", "actor.model={num_action_chunks:2,lora_rank:4}"]
        return load_config(TINY, [*small, "env.num_envs_per_worker=4", "rollout.num_threads=1", *overrides])

    def returns(given, workers) -> dict[int, list[float]]:
        """Of each task's episodes, as that policy plays them."""
        outcome = evaluation.evaluate(workers, given, task_ids=range(3), label="evaluation", folder=tmp_path)
        assert outcome.episodes == {0: 5, 1: 5, 2: 5}
        found = sorted(results[-1], key=lambda result: result.plan.episode)
        assert [result.plan.episode for result in found] == list(range(15))
        return {task: [one.total_reward for one in found if one.plan.task_id == task] for task in range(3)}

    source = PolicySource(policy, unnorm_key="libero_spatial", seed=3)
    per_task = config(f"actor.model.lora_path={second}", f"actor.model.task_lora_paths=[{first}]")
    alone = [config(f"actor.model.lora_path={second}"), config(f"actor.model.lora_path={first}"), config()]
    with Cluster(object_store_gb=0.1):
        group = {"placement": WorkerPlacement(), "timeout_s": 100.0}
        env = WorkerGroup("env", Simulator, 1, lambda _: (), **group)
        env.call("begin", 0.0)
        rollout = WorkerGroup("rollout", RolloutWorker, 1, lambda _: (per_task, source), watched=True, **group)
        workers = Workers(None, rollout, env)
        attach_envs(workers)
        chosen = [returns(per_task, workers) for _ in range(2)]
        played = [returns(alone[0], workers)]  # with what the worker then holds
        for given in alone[1:]:
            workers.renew(given, source)
            attach_envs(workers)
            played.append(returns(given, workers))
    assert chosen[0] == chosen[1] == {0: played[1][0], 1: played[0][1], 2: played[2][2]}
    for task in range(3):
        assert len({tuple(one[task]) for one in played}) == 3, "each of the three plays in its own way"
