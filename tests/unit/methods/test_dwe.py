"""An adapter per task (DWE): which adapters a task of a sequence has, which one plays what, and exchanging them."""

from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch

from rlinf.cli.run_sequence import check_steps
from rlinf.config import Config, ConfigError, load_config, validate
from rlinf.config.errors import UserError
from rlinf.config.schema import ActorConfig, ModelConfig, RolloutConfig
from rlinf.custom.methods import make_method
from rlinf.custom.methods.dwe import Player, players
from rlinf.custom.sequence.evaluation import plan_evaluation
from rlinf.custom.sequence.lineage import Lineage, check_lineage
from rlinf.custom.sequence.locations import recorded_start
from rlinf.custom.sequence.plan import SequenceRequest, plan_sequence
from rlinf.custom.sequence.recipe import Recipe, Step
from rlinf.models import PolicySource, find_experts
from rlinf.run_layout import Checkpoint
from rlinf.runners.embodied import find_state
from rlinf.workers.rollout import RolloutWorker
from tests.sequences import TINY, at, save
from tests.small_policy import write_adapter
from tests.toy_policy import toy_task
from transformers_openvla_oft import CheckpointError

BASE = "./model/tiny-openvla-oft-libero-spatial"
THREE = SequenceRequest(stages=((0,), (1,), (2,)), seed=7, max_epochs=3)


@cache
def tiny(*overrides: str) -> Config:
    return load_config(TINY, ["method=dwe", *overrides])


def plan(root: Path, request: SequenceRequest) -> tuple[Step, ...]:
    return plan_sequence(request, Recipe(tiny(), TINY, ("method=dwe",)), workspace=at(root), ledger=())


def actor_of(task: int, root: Path = Path()) -> Path:
    return Checkpoint.at(root / f"logs/dwe/task_{task}_seed7", 3).actor


def learn(root: Path, *tasks: int) -> list[Path]:
    """Leave what a sequence of tasks leaves, each with the adapters of those before it."""
    for number, task in enumerate(tasks):
        experts = tuple(str(actor_of(other)) for other in tasks[:number])
        lineage = Lineage("dwe", "libero_spatial", 7, tasks[: number + 1], (task,), BASE, experts=experts)
        lineage.save(save(root / f"logs/dwe/task_{task}_seed7", 3))
    return [actor_of(task, root) for task in tasks]


# ----------------------------------------------------------------------------------------------------------- plans


def test_every_task_starts_afresh_with_the_adapters_of_all_before_it(tmp_path: Path) -> None:
    steps = plan(tmp_path, THREE)
    actors = [str(actor_of(task)) for task in range(3)]
    assert [step.result for step in steps] == actors
    assert [step.config.actor.model.task_lora_paths for step in steps] == [[], actors[:1], actors[:2]]
    assert f"actor.model.task_lora_paths=[{actors[0]},{actors[1]}]" in steps[2].command
    assert all(step.start is None and not step.merged for step in steps)
    assert ["evaluate the base model" in step.todo for step in steps] == [True, False, False]
    assert f"  expert      {actors[0]}" in steps[1].describe(2, 3)
    assert "  start       base model" in steps[1].describe(2, 3)


def test_tasks_that_are_learnt_together_have_one_adapter(tmp_path: Path) -> None:
    (step,) = plan(tmp_path, replace(THREE, stages=((4, 2),)))
    assert (step.experts, step.start) == ((), None)


def test_a_later_task_goes_on_from_what_was_learnt(tmp_path: Path) -> None:
    alone = replace(THREE, stages=((2,),))
    with pytest.raises(UserError, match="task 2 needs the adapters of the tasks before it, and that of task 0 is"):
        plan(tmp_path, alone)
    learn(tmp_path, 0, 1)
    (step,) = plan(tmp_path, alone)
    assert step.experts == (str(actor_of(0)), str(actor_of(1)))
    assert plan(tmp_path, replace(alone, checkpoint="logs/dwe/task_1_seed7"))[0].config == step.config
    after = f"actor.model.task_lora_paths=[{','.join(map(str, learn(tmp_path, 0, 1)))}]"
    assert find_state(tiny(after, "env.fixed_task_ids=[2]"), tmp_path).learnt_before == (0, 1)
    assert find_state(tiny(after, "env.fixed_task_ids=[1]"), tmp_path).learnt_tasks == (0, 1), "it goes on learning"
    with pytest.raises(ConfigError, match=r"has learnt tasks \[0, 1\] in this order, so \[0\] cannot be learnt after"):
        find_state(tiny(after, "env.fixed_task_ids=[0]"), tmp_path)


def test_a_checkpoint_that_is_no_adapter_of_its_own_task_is_refused(tmp_path: Path) -> None:
    actor = save(tmp_path / "logs/sequential/task_1_seed7", 3)
    request = replace(THREE, stages=((2,),), checkpoint="logs/sequential/task_1_seed7")
    with pytest.raises(UserError, match="is no adapter for a task of its own"):
        plan(tmp_path, request)
    Lineage("sequential", "libero_spatial", 7, (0, 1), (1,), BASE).save(actor)
    with pytest.raises(UserError, match="sequence of method=dwe"):
        plan(tmp_path, request)


def test_a_run_began_with_the_adapters_that_it_noted(tmp_path: Path) -> None:
    first, second = learn(tmp_path, 0, 1)
    (second.parents[2] / "config.yaml").write_text(f"actor: {{model: {{task_lora_paths: ['{first}']}}}}")
    assert recorded_start(second.parents[2]) == (first,)


def test_an_evaluation_finds_the_adapters_in_the_lineage(tmp_path: Path) -> None:
    """Also where the configuration does not name the method."""
    learn(tmp_path, 0, 1)
    recipe = Recipe(load_config(TINY, []), TINY)
    first, second = (
        plan_evaluation(f"logs/dwe/task_{task}_seed7", None, recipe, workspace=at(tmp_path)) for task in range(2)
    )
    assert first.command[-1] == "actor.model.task_lora_paths=[]"
    assert second.command[-1] == f"actor.model.task_lora_paths=[{actor_of(0)}]"
    assert second.config.actor.model.lora_path == str(actor_of(1))
    check_steps((first, second), at(tmp_path))
    (tmp_path / actor_of(0) / "adapter_config.json").unlink()
    with pytest.raises(UserError, match=r"the checkpoint needs the adapter in logs/dwe/task_0_seed7/.* is"):
        plan_evaluation("logs/dwe/task_1_seed7", None, recipe, workspace=at(tmp_path))


# --------------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("paths", [None, []])
def test_other_policies_weights_need_be_no_adapter(tmp_path: Path, paths: list[str] | None) -> None:
    """A CNN's, whole weights, or those of the first task."""
    assert find_experts(ModelConfig(task_lora_paths=paths), tmp_path) == []


def test_adapters_that_do_not_go_with_a_checkpoint_are_refused(tmp_path: Path) -> None:
    first, second = learn(tmp_path, 0, 1)
    assert Lineage.load(first) == Lineage("dwe", "libero_spatial", 7, (0,), (0,), BASE, experts=())
    paths = "actor.model.task_lora_paths=[{}]".format
    check_lineage(tiny(), first)
    check_lineage(tiny(paths(first)), second)
    check_lineage(tiny(paths(f"{first},{second}")), second, expert=1)
    for config, adapter, expert in (
        (load_config(TINY, []), first, None),
        (tiny(), second, None),
        (tiny(paths(first)), first, None),
        (tiny(paths(second)), second, 0),
    ):
        with pytest.raises(ConfigError, match=r"goes with actor\.model\.task_lora_paths=\[.*\] .* configuration has"):
            check_lineage(config, adapter, expert=expert)
    Lineage("sequential", "libero_spatial", 7, (0,), (0,), BASE).save(first)
    with pytest.raises(ConfigError, match=r"task_lora_paths=null .* configuration has \[\]"):
        check_lineage(tiny(paths(first)), first, expert=0)
    (first / "lineage.json").unlink()
    with pytest.raises(ConfigError, match=r"holds no lineage\.json"):
        check_lineage(tiny(paths(first)), first, expert=0)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("actor.model.is_lora=false", "method=dwe needs adapters"),
        ("actor.model.previous_lora_paths=[a]", "plain base model: leave actor.model.previous_lora_paths out"),
    ],
)
def test_settings_that_cannot_work(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        validate(tiny(override), num_tasks=10)


def test_training_starts_afresh() -> None:
    method = make_method(tiny().method)
    method.check(toy_task())
    with pytest.raises(ConfigError, match=r"lora_path names logs/dwe: leave it out"):
        method.check(toy_task(previous=Path("logs/dwe")))


# ------------------------------------------------------------------------------------------------------ who plays what


def test_each_task_is_played_by_its_own_adapter_and_others_by_the_base(tmp_path: Path) -> None:
    """While task 2 is learnt after 0 and 1, and evaluating what was learnt after 0."""
    first, second = learn(tmp_path, 0, 1)
    earlier = f"actor.model.task_lora_paths=[{first},{second}]"
    expected = {0: Player(first, 1.0), 1: Player(second, 1.0), 2: Player(None, 1.0), 3: Player(None, 0.0)}
    assert players(tiny(earlier, "env.fixed_task_ids=[2]"), range(4)) == expected
    own = (f"actor.model.task_lora_paths=[{first}]", f"actor.model.lora_path={second}", "actor.model.lora_scale=0.5")
    assert players(tiny(*own), range(3)) == {0: Player(first, 0.5), 1: Player(None, 0.5), 2: Player(None, 0.0)}
    joint = tiny("env.fixed_task_ids=[0,2]")
    assert players(joint, range(3)) == {0: Player(None, 1.0), 1: Player(None, 0.0), 2: Player(None, 1.0)}
    assert players(load_config(TINY, []), range(2)) == {0: Player(None, 1.0), 1: Player(None, 1.0)}


@pytest.fixture(scope="module")
def adapters(small_policy, tmp_path_factory) -> list[Path]:
    return [write_adapter(small_policy, tmp_path_factory.mktemp("adapter"), seed=seed) for seed in range(2)]


@pytest.mark.parametrize("merge", [False, True], ids=["beside", "merged"])
@pytest.mark.parametrize("critic", [False, True], ids=["grpo", "ppo"])
def test_another_adapter_acts_for_a_while_and_leaves_no_trace(small_policy, adapters, merge, critic):
    """All weights are those of a policy that was started with it, and afterwards those of before."""

    def worker(adapter: Path) -> RolloutWorker:
        model = ModelConfig(lora_rank=4, lora_path=str(adapter))
        acting = RolloutConfig(precision="fp32" if merge else "bf16", num_threads=1, merge_adapter=merge)
        source = PolicySource(small_policy, unnorm_key="libero_spatial", seed=3, critic=critic)
        return RolloutWorker(Config(actor=ActorConfig(model=model), rollout=acting), source)

    def weights(one: RolloutWorker) -> dict[str, torch.Tensor]:
        return {name: value.clone() for name, value in one._policy.module.state_dict().items()}

    def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
        return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())

    own, other = worker(adapters[0]), weights(worker(adapters[1]))
    before = weights(own)
    assert not equal(before, other)
    with own.acting_with(adapters[1]):
        assert equal(weights(own), other)
    assert equal(weights(own), before)
    with own.acting_with(None):
        assert equal(weights(own), before)


def test_an_adapter_of_another_shape_is_refused_before_it_acts(small_policy, adapters, tmp_path):
    model = ModelConfig(lora_rank=4, task_lora_paths=[str(adapters[0])])
    assert find_experts(model, adapters[1]) == [adapters[0]]
    with pytest.raises(ConfigError, match=r"has rank 4, but actor\.model\.lora_rank=8"):
        find_experts(replace(model, lora_rank=8), None)
    with pytest.raises(ConfigError, match=r"has alpha 4, but actor\.model\.lora_alpha=2"):
        find_experts(replace(model, lora_alpha=2), None)
    with pytest.raises(ConfigError, match=r"actor\.model\.task_lora_paths=.*gone is not an adapter folder"):
        find_experts(replace(model, task_lora_paths=[str(tmp_path / "gone")]), None)
    config = Config(actor=ActorConfig(model=ModelConfig(lora_rank=8)), rollout=RolloutConfig(num_threads=1))
    worker = RolloutWorker(config, PolicySource(small_policy, unnorm_key="libero_spatial", seed=3))
    with pytest.raises(CheckpointError, match="of another shape"), worker.acting_with(adapters[0]):
        pass
