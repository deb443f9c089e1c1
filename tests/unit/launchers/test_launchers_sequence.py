"""Planning: tasks, checkpoints, what is skipped and what is refused. Folders and commands: tests/golden."""

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from rlinf.cli.console import UsageError
from rlinf.cli.launcher import parse_count, parse_task_ids
from rlinf.cli.run_sequence import check_steps
from rlinf.config import ConfigError, config_yaml, load_config
from rlinf.config.errors import UserError
from rlinf.custom.sequence.evaluation import plan_evaluation
from rlinf.custom.sequence.locations import Workspace, find_weights
from rlinf.custom.sequence.plan import SequenceRequest, plan_sequence
from rlinf.custom.sequence.recipe import Recipe, Step
from rlinf.reporting import ledger
from rlinf.run_layout import LEDGER_FILE, Checkpoint
from rlinf.runners.embodied import find_state
from tests.sequences import TINY, Evaluated, at, changed, recipe, save, write_weights
from tests.study import write_record

RECIPE = recipe(runner__max_epochs=10)
REQUEST = SequenceRequest(stages=((0,), (1,)), seed=7)


@cache
def tiny() -> Recipe:
    return Recipe(load_config(TINY), TINY)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    (tmp_path / "repository").mkdir()
    (tmp_path / "elsewhere").mkdir()
    return Workspace(root=tmp_path / "repository", called_from=tmp_path / "elsewhere")


def plan(
    workspace: Workspace, request: SequenceRequest = REQUEST, *ledger: Evaluated, given: Recipe = RECIPE
) -> tuple[Step, ...]:
    return plan_sequence(request, given, workspace=workspace, ledger=ledger)


# ---------------------------------------------------------------------------------------------------------- tasks


@pytest.mark.parametrize(("text", "ids"), [("0", (0,)), ("0,4", (0, 1, 2, 3, 4)), (" 3 , 3 ", (3,)), ("9", (9,))])
def test_task_range(text: str, ids: tuple[int, ...]) -> None:
    assert parse_task_ids(text, is_range=True, num_tasks=10) == ids


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("4,0", 'is reversed; write "0,4"'),
        ("10", "task 10 .* tasks 0 to 9"),
        ("-1", "task -1 .* tasks 0 to 9"),
        ("0,2,4", "has 3 numbers"),
        ("0-4", "cannot read the tasks '0-4'"),
        ("", "cannot read the tasks"),
        ("²", "cannot read the tasks"),
    ],
)
def test_task_range_errors(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parse_task_ids(text, is_range=True, num_tasks=10)


def test_task_list() -> None:
    assert parse_task_ids("4,3,0", is_range=False, num_tasks=10) == (4, 3, 0)
    with pytest.raises(UsageError, match="names a task twice"):
        parse_task_ids("1,2,1", is_range=False, num_tasks=10)


def test_counts() -> None:
    assert parse_count("15", name="MAX_EPOCH", minimum=1) == 15
    with pytest.raises(UsageError, match="SEED must be a whole number, got 'abc'"):
        parse_count("abc", name="SEED", minimum=0)
    with pytest.raises(UsageError, match="MAX_EPOCH must be at least 1, got 0"):
        parse_count("0", name="MAX_EPOCH", minimum=1)


# ------------------------------------------------------------------------------------------------------ sequences


def test_a_fresh_sequence(workspace: Workspace) -> None:
    first, second = plan(workspace)
    assert first.folder == "logs/sequential/task_0_seed7"
    assert first.start is None
    assert first.result == "logs/sequential/task_0_seed7/checkpoints/global_step_10/actor"
    assert first.todo == ("evaluate the base model", "train to epoch 10", "evaluate all tasks")
    assert second.start == first.result
    assert second.todo == ("train to epoch 10", "evaluate all tasks")


@pytest.mark.parametrize(
    ("line", "todo"),
    [
        (Evaluated("task_0", 7, "logs/sequential/task_0_seed7/checkpoints/global_step_10"), ()),
        (Evaluated("task_0", 7, "/copied/to/task_0_seed7/checkpoints/global_step_10/actor"), ()),
        (Evaluated("task_0", 7, "task_0_seed7/global_step_10"), ()),
        (Evaluated("task_0", 7, "task_0_seed7/checkpoints/global_step_5/actor"), ("evaluate all tasks",)),
        (Evaluated("task_0", 8, "task_0_seed8/checkpoints/global_step_10/actor"), ("evaluate all tasks",)),
        (Evaluated("task_1", 7, "task_1_seed7/checkpoints/global_step_10/actor"), ("evaluate all tasks",)),
    ],
)
def test_only_an_evaluation_of_this_checkpoint_counts(
    workspace: Workspace, line: Evaluated, todo: tuple[str, ...]
) -> None:
    save(workspace.root / "logs/sequential/task_0_seed7", 10)
    first, _ = plan(workspace, REQUEST, Evaluated("base", 7, "model"), line)
    assert first.todo == todo


def test_a_base_row_that_was_missed_is_made_up_for(workspace: Workspace) -> None:
    save(workspace.root / "logs/sequential/task_0_seed7", 10)
    base, first, second = plan(workspace, given=replace(RECIPE, overrides=("a.b=1",)))
    assert base.command[0] == "examples/embodiment/eval_embodied_agent.py"
    assert base.command[-2:] == ("runner.logger.log_path=logs/sequential/base_seed7", "a.b=1")
    assert first.todo == ("evaluate all tasks",)
    assert "runner.eval_before=false" in first.command
    assert second.start == first.result


def test_an_interrupted_task_says_where_it_resumes(workspace: Workspace) -> None:
    folder = workspace.root / "logs/sequential/task_0_seed7"
    save(folder, 2)
    save(folder, 4)
    (folder / "checkpoints" / "global_step_9.tmp").mkdir()
    first, _ = plan(workspace, REQUEST, Evaluated("base", 7, "model"))
    assert first.todo == ("train to epoch 10, resuming after 4", "evaluate all tasks")


def test_a_task_trained_beyond_what_is_asked_is_not_trained_again(workspace: Workspace) -> None:
    save(workspace.root / "logs/sequential/task_0_seed7", 20)
    with pytest.raises(UserError, match="was trained to epoch 20 and has no checkpoint of epoch 10"):
        plan(workspace)


def test_the_users_choice_of_evaluations_is_kept(workspace: Workspace) -> None:
    overrides = ("runner.eval_before=false", "runner.eval_after=false")
    first, second = plan(workspace, given=replace(RECIPE, overrides=overrides))
    assert [word for word in first.command if "eval_" in word] == list(overrides)
    assert [word for word in second.command if "eval_" in word] == list(overrides)
    assert first.todo == ("train to epoch 10",)
    save(workspace.root / "logs/sequential/task_0_seed7", 10)
    assert plan(workspace, given=replace(RECIPE, overrides=overrides))[0].todo == ()


def test_a_forgotten_checkpoint_is_mentioned(workspace: Workspace) -> None:
    save(workspace.root / "logs/sequential/task_1_seed7", 10)
    request = replace(REQUEST, stages=((2,), (3,)))
    first, second = plan(workspace, request)
    assert first.notes == ("to continue from logs/sequential/task_1_seed7 instead, give it as CHECKPOINT_PATH",)
    assert second.notes == ()


# ------------------------------------------------------------------------------------ what training finds, too


FILES = ("adapter_config.json", "adapter_model.safetensors", "training_state.pt")


@pytest.mark.parametrize(("files", "resumed"), [(FILES, 4), (FILES[:2], 4), (FILES[:1], 2), ((), 2)])
def test_plans_and_training_know_the_same_checkpoints(tmp_path: Path, files: tuple[str, ...], resumed: int) -> None:
    """The newest one is whole, was thinned out, or broken: where training resumes is where the plan says."""
    folder = tmp_path / "logs/sequential/task_0_seed7"
    write_weights(Checkpoint.at(folder, 2).actor, *FILES)
    actor = Checkpoint.at(folder, 4).actor
    actor.mkdir(parents=True)
    for name in files:
        (actor / name).touch()
    given = tiny()
    (step,) = plan(at(tmp_path), SequenceRequest(stages=((0,),), seed=7, max_epochs=6), given=given)[-1:]
    assert f"train to epoch 6, resuming after {resumed}" in step.todo
    assert find_state(step.config, folder).epoch == resumed


@pytest.mark.parametrize(
    ("changes", "is_done"),
    [
        ({}, True),
        ({"method": "er"}, False),
        ({"probe": True, "lora_scale": 0.5}, False),
        ({"seed": 8}, False),
        ({"checkpoint": "task_0_seed7/global_step_5"}, False),
    ],
)
def test_plans_and_training_agree_on_what_was_evaluated(
    tmp_path: Path, changes: dict[str, object], is_done: bool
) -> None:
    results = tmp_path / "logs/sequential"
    save(results / "task_0_seed7", 6)
    write_record(tmp_path, "sequential", 7, (0,), np.full(10, 0.5))
    (line,) = ledger.read(tmp_path / LEDGER_FILE)
    ledger.append(results / LEDGER_FILE, replace(line, **changes))  # type: ignore[arg-type]
    given, request = tiny(), SequenceRequest(stages=((0,),), seed=7, max_epochs=6)
    lines = ledger.read(results / LEDGER_FILE)
    step = plan_sequence(request, given, workspace=at(tmp_path), ledger=lines)[-1]
    assert ("evaluate all tasks" not in step.todo) == is_done
    assert (find_state(step.config, results / "task_0_seed7").missing_after == ()) == is_done


# --------------------------------------------------------------------------------------------- more or fewer epochs


def begin(folder: Path, *steps: int, start: Path | None = None, merged: tuple[Path, ...] = ()) -> Path:
    """Checkpoints of a run and what it noted about its start, as training does; returns the last one's adapter."""
    actor = [save(folder, step) for step in steps][-1]
    model = {"lora_path": start and str(start), "previous_lora_paths": [str(path) for path in merged]}
    (folder / "config.yaml").write_text(json.dumps({"actor": {"model": model}}))
    return actor


@pytest.fixture
def trained(workspace: Workspace) -> Path:
    """Tasks 0, 1 and 2 were learnt one after another, ten epochs each; their folder."""
    folder = workspace.root / "logs/sequential"
    first = begin(folder / "task_0_seed7", 5, 10)
    second = begin(folder / "task_1_seed7", 10, start=first.relative_to(workspace.root))
    begin(folder / "task_2_seed7", 10, start=second.relative_to(workspace.root))
    return folder


def longer(workspace: Workspace, *stages: int, epochs: int = 15, **changes: object) -> tuple[Step, ...]:
    request = replace(REQUEST, stages=tuple((task,) for task in stages), max_epochs=epochs, **changes)  # type: ignore[arg-type]
    return plan(workspace, request, Evaluated("base", 7, "model"))


def test_a_sequence_goes_on_as_it_is_and_its_last_task_longer(workspace: Workspace, trained: Path) -> None:
    assert [step.todo[0] for step in longer(workspace, 3, 4, epochs=10)] == ["train to epoch 10"] * 2
    assert all("train" not in word for step in longer(workspace, 0, 1, 2, epochs=10) for word in step.todo)
    start = "logs/sequential/task_1_seed7/checkpoints/global_step_10"
    last, following = longer(workspace, 2, 3, checkpoint=start)
    assert last.todo == ("train to epoch 15, resuming after 10", "evaluate all tasks")
    assert following.start == "logs/sequential/task_2_seed7/checkpoints/global_step_15/actor"


def test_a_task_that_others_learnt_from_may_grow_alone_and_says_so(workspace: Workspace, trained: Path) -> None:
    (step,) = longer(workspace, 0)
    assert step.notes == (
        "task_1_seed7 began with an earlier epoch of it and will not change; the row of this task in reports will be "
        "that of epoch 15",
    )
    (last,) = longer(workspace, 2, checkpoint="logs/sequential/task_1_seed7")
    assert last.notes == ()


def test_a_sequence_whose_second_task_was_not_begun_grows(workspace: Workspace) -> None:
    begin(workspace.root / "logs/sequential/task_0_seed7", 10)
    first, second = longer(workspace, 0, 1)
    assert first.todo[0] == "train to epoch 15, resuming after 10"
    assert second.start == "logs/sequential/task_0_seed7/checkpoints/global_step_15/actor"


@pytest.mark.parametrize("stages", [((0,), (1,)), ((1,),)])
def test_a_task_goes_on_only_from_what_it_began_with(tmp_path: Path, stages: tuple[tuple[int, ...], ...]) -> None:
    """Another epoch of the task before, planned or given as CHECKPOINT_PATH, is another sequence."""
    given, folder = tiny(), tmp_path / "logs/sequential"
    for step in plan(at(tmp_path), replace(REQUEST, max_epochs=10), given=given):
        save(tmp_path / step.folder, 10)
        (tmp_path / step.folder / "config.yaml").write_text(config_yaml(step.config))
    save(folder / "task_0_seed7", 15)
    checkpoint = str(folder / "task_0_seed7") if stages[0] == (1,) else None
    steps = plan(at(tmp_path), replace(REQUEST, stages=stages, max_epochs=15, checkpoint=checkpoint), given=given)
    with pytest.raises(ConfigError, match=r"lora_path: .*global_step_10/actor there, .*global_step_15/actor now"):
        check_steps(steps, at(tmp_path))


# --------------------------------------------------------------------------------------------------- weight merge

MERGING = changed(RECIPE, method__name="weight_merge")
MERGE = SequenceRequest(stages=((0,), (1,), (2,)), seed=7)


def test_a_later_task_alone_needs_the_adapters_before_it(workspace: Workspace) -> None:
    alone = replace(MERGE, stages=((2,),))
    first = save(workspace.root / "logs/weight_merge/task_0_seed7", 10)
    save(workspace.root / "logs/weight_merge/task_1_seed7", 9)
    with pytest.raises(UserError, match=r"of task 1 is missing: logs/weight_merge/task_1_seed7/.*global_step_10"):
        plan_sequence(alone, MERGING, workspace=workspace, ledger=())
    second = save(workspace.root / "logs/weight_merge/task_1_seed7", 10)
    (step,) = plan_sequence(alone, MERGING, workspace=workspace, ledger=())
    assert step.merged == tuple(str(path.relative_to(workspace.root)) for path in (first, second))
    assert step.todo == ("train to epoch 10", "evaluate all tasks"), "the base row belongs to the first task's run"


def test_a_given_order_merges_its_own_tasks_only(workspace: Workspace) -> None:
    save(workspace.root / "logs/weight_merge/reversed/task_3_seed7", 10)  # the task learnt last, from an earlier run
    request = replace(MERGE, stages=((4,), (2,), (3,)), run_id="reversed")
    steps = plan_sequence(request, MERGING, workspace=workspace, ledger=())
    actors = [f"logs/weight_merge/reversed/task_{task}_seed7/checkpoints/global_step_10/actor" for task in (4, 2)]
    assert [step.merged for step in steps] == [(), (actors[0],), tuple(actors)]
    alone = replace(REQUEST, stages=((4,),), run_id="reversed")
    assert plan(workspace, alone, given=changed(RECIPE, method__label="weight_merge"))[-1].notes == (), (
        "task 3 is not what comes before task 4 here"
    )


def test_sequences_start_at_the_suites_first_task(workspace: Workspace) -> None:
    given = changed(MERGING, env__first_task=5)
    for stages in (((5,), (6,)), ((0,),)):
        first, *_ = plan_sequence(replace(MERGE, stages=stages), given, workspace=workspace, ledger=())
        assert first.merged == ()


def write_lineage(actor: Path, **changes: object) -> None:
    values = {"method": "weight_merge", "suite": "libero_spatial", "seed": 7, "learnt_tasks": [0, 1], "stage": [1]}
    values |= {"base_model": "model/small", "merged": [], "merge_coeff": None} | changes
    (actor / "lineage.json").write_text(json.dumps(values))


def test_an_evaluation_finds_the_merged_adapters_and_scales_all(workspace: Workspace) -> None:
    earlier = save(workspace.root / "logs/weight_merge/task_0_seed7", 10)
    actor = save(workspace.root / "logs/weight_merge/task_1_seed7", 10)
    merged = [str(earlier.relative_to(workspace.root))]
    write_lineage(actor, merged=merged, merge_coeff=0.8)
    step = evaluate(workspace, "logs/weight_merge/task_1_seed7")
    assert step.merged == tuple(merged)
    assert step.command[-3:] == (
        f"actor.model.previous_lora_paths=[{merged[0]}]",
        "actor.model.previous_lora_coeff=0.8",
        "actor.model.lora_scale=0.8",
    )
    (earlier / "adapter_config.json").unlink()
    with pytest.raises(UserError, match=r"needs the adapter in logs/weight_merge/task_0_seed7/.* is missing"):
        evaluate(workspace, "logs/weight_merge/task_1_seed7")


def test_a_method_with_fresh_adapters_goes_on_above_a_checkpoint_that_is_given(workspace: Workspace) -> None:
    """With what that was learnt on top of; one from elsewhere is the first."""
    actors = [save(workspace.root / f"logs/elsewhere/task_{task}_seed7", 10) for task in (0, 1)]
    first, last = (str(actor.relative_to(workspace.root)) for actor in actors)
    request = replace(MERGE, stages=((2,), (3,)), checkpoint="logs/elsewhere/task_1_seed7")
    for merged in ([], [first]):
        write_lineage(actors[1], merged=merged)
        step, following = plan_sequence(request, MERGING, workspace=workspace, ledger=())
        assert (step.start, step.merged) == (None, (*merged, last))
        assert following.merged == (*merged, last, step.result)


def test_the_first_task_of_weight_merge_is_scaled_too(workspace: Workspace) -> None:
    actor = save(workspace.root / "logs/weight_merge/task_0_seed7", 10)
    write_lineage(actor, learnt_tasks=[0], stage=[0], merge_coeff=0.5)
    assert "actor.model.lora_scale=0.5" in evaluate(workspace, "logs/weight_merge/task_0_seed7").command


# ---------------------------------------------------------------------------------------------------- checkpoints


@pytest.mark.parametrize("below", ["checkpoints/global_step_20/actor", "checkpoints/global_step_20", "checkpoints", ""])
def test_find_weights_from_any_level(tmp_path: Path, below: str) -> None:
    save(tmp_path, 3)
    newest = save(tmp_path, 20)
    (tmp_path / "checkpoints/global_step_24").mkdir()  # without an adapter
    assert find_weights(tmp_path / below, given=below) == newest


def test_find_weights_names_what_it_looked_for(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"the checkpoint 'gone' does not exist \(looked for .*/gone\)"):
        find_weights(tmp_path / "gone", given="gone")
    with pytest.raises(
        UserError,
        match=r"no checkpoint in 'x': expected adapter_config.json and adapter_model.safetensors, or model.pt",
    ):
        find_weights(tmp_path, given="x")


def test_relative_paths_start_at_the_repository_then_at_the_caller(workspace: Workspace) -> None:
    in_caller = workspace.called_from / "mine"
    in_caller.mkdir()
    assert workspace.find("mine") == in_caller
    in_root = workspace.root / "mine"
    in_root.mkdir()
    assert workspace.find("mine") == in_root
    assert workspace.find(str(in_caller)) == in_caller
    assert workspace.find("nowhere") == workspace.root / "nowhere"


# ----------------------------------------------------------------------------------------------------- evaluation


def evaluate(workspace: Workspace, location: str, step: int | None = None, suite: str = "libero_spatial") -> Step:
    return plan_evaluation(location, step, changed(RECIPE, env__suite=suite), workspace=workspace)


def test_evaluation_takes_step_ten_by_default(workspace: Workspace) -> None:
    folder = workspace.root / "logs/sequential/task_0_seed42"
    for step in (5, 10, 20):
        save(folder, step)
    step = evaluate(workspace, "logs/sequential/task_0_seed42")
    assert step.command[3:] == (
        "actor.model.lora_path=logs/sequential/task_0_seed42/checkpoints/global_step_10/actor",
        "runner.seed=42",
        "runner.logger.log_path=logs/sequential/task_0_seed42",
    )
    assert step.notes == ()
    assert "global_step_5/" in evaluate(workspace, "logs/sequential/task_0_seed42", suite="libero_10").command[3]
    assert "global_step_20/" in evaluate(workspace, "logs/sequential/task_0_seed42", 20).command[3]


def test_evaluation_names_the_newest_where_step_ten_is_missing(workspace: Workspace) -> None:
    folder = workspace.root / "logs/sequential/task_0_seed1234"
    save(folder, 1)
    save(folder, 3)
    step = evaluate(workspace, "logs/sequential/task_0_seed1234")
    assert "global_step_3/" in step.command[3]
    assert step.notes == ("there is no global_step_10; the newest checkpoint, global_step_3, is used",)
    with pytest.raises(UserError, match="has no checkpoint of step 7; there are 1, 3"):
        evaluate(workspace, "logs/sequential/task_0_seed1234", 7)


def test_evaluation_of_an_adapter_folder_writes_to_its_task_folder(workspace: Workspace) -> None:
    actor = save(workspace.root / "logs/sequential/task_0_seed1234", 3)
    step = evaluate(workspace, str(actor))
    assert step.folder == "logs/sequential/task_0_seed1234"


def test_evaluation_of_an_adapter_from_elsewhere_leaves_its_folder_alone(workspace: Workspace) -> None:
    adapter = write_weights(workspace.called_from / "downloads" / "someones-adapter")
    step = evaluate(workspace, "downloads/someones-adapter")
    assert step.start == str(adapter)
    assert step.folder == "logs/evaluations/someones-adapter"
    assert "runner.seed=1234" in step.command


def test_a_location_without_seed_is_enough_when_it_is_the_only_one(workspace: Workspace) -> None:
    save(workspace.root / "logs/sequential/task_0_seed1", 10)
    assert evaluate(workspace, "logs/sequential/task_0").folder == "logs/sequential/task_0_seed1"
    save(workspace.root / "logs/sequential/task_0_seed2", 10)
    with pytest.raises(UserError, match="there are logs/sequential/task_0_seed1, logs/sequential/task_0_seed2"):
        evaluate(workspace, "logs/sequential/task_0")
