"""Further suites beside the success matrix: what is asked for, recorded, planned, resumed and shown."""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from rlinf.cli import report as cli
from rlinf.cli.console import user_message
from rlinf.cli.request import Request, parse
from rlinf.config import ConfigError, load_config
from rlinf.custom.sequence.evaluation import plan_evaluation
from rlinf.custom.sequence.lineage import Lineage, check_lineage
from rlinf.custom.sequence.locations import Workspace
from rlinf.custom.sequence.plan import SequenceRequest, plan_sequence
from rlinf.custom.sequence.recipe import Step
from rlinf.envs import playable_tasks
from rlinf.reporting import ledger
from rlinf.reporting.ledger import EvaluationRecord
from rlinf.reporting.report import collect, csv_table, latex, write_report
from rlinf.run_layout import LEDGER_FILE
from rlinf.runners.embodied import find_state
from rlinf.runners.evaluation import on_suite
from tests.sequences import TINY, Evaluated, at, recipe, save
from tests.study import write_record

LAN, SWAP = "libero_spatial_lan", "libero_spatial_swap"
ACTOR = "task_0_seed7/checkpoints/global_step_10/actor"


def used(*overrides: str, config: str = TINY, learns: bool = False) -> Request:
    request = parse(["--config-name", config, *overrides], prog="test", description="", learns=learns)
    assert request is not None
    return request


def further(record: EvaluationRecord, suite: str, rates: dict[int, float]) -> EvaluationRecord:
    episodes = dict.fromkeys(rates, 50)
    return dataclasses.replace(
        record, suite=suite, learnt_suite="libero_spatial", success=rates, episodes=episodes, init_states={}
    )


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    """Base and one task learnt; other words after both, other goals (without task 8) after the second only."""
    folder = tmp_path / "logs"
    for learnt in ((), (0,)):
        write_record(folder, "sequential", 7, learnt, np.full(10, 0.6 if learnt else 0.4))
    path = folder / LEDGER_FILE
    base, after = ledger.read(path)
    ledger.append(path, further(base, LAN, dict.fromkeys(range(10), 0.3)))
    ledger.append(path, further(after, LAN, dict.fromkeys(range(10), 0.5)))
    ledger.append(path, further(after, "libero_spatial_task", dict.fromkeys([*range(8), 9], 0.2)))
    return folder


# ------------------------------------------------------------------------------------------------------ configuration


@pytest.mark.parametrize(
    ("suites", "message"),
    [
        ("[libero_spatial_words]", "unknown suite 'libero_spatial_words'"),
        ("[libero_90]", "libero_90 has 90 tasks, but libero_spatial 10"),
        (f"[{LAN},{LAN}]", f"names {LAN} twice"),
        ("[libero_spatial]", "names libero_spatial twice, or env.suite"),
    ],
)
def test_suites_that_cannot_be_evaluated_are_the_users_mistake(suites: str, message: str):
    for learns in (False, True):
        with pytest.raises(ValueError, match=message) as caught:
            used(f"env.eval_suites={suites}", learns=learns)
        assert user_message(caught.value)


def test_a_perturbed_suite_is_evaluated_with_the_statistics_of_its_own():
    assert used(f"env.suite={SWAP}").source.unnorm_key == "libero_spatial"
    assert used(f"env.eval_suites=[{LAN},{SWAP}]").config.env.eval_suites == [LAN, SWAP]


def test_faulty_tasks_are_left_out_or_refused_where_they_are_asked_for():
    config = "crl_experiment/libero_10_grpo_tiny"
    env = used("env.suite=libero_10_task", config=config).config.env
    assert playable_tasks(env, env.eval_task_ids) == [0, 1, 2, 3, 4, 5, 6, 7, 9]
    for overrides in (
        ["env.suite=libero_10_task", "env.eval_task_ids=[1,8]"],
        ["env.eval_suites=[libero_10_task]", "env.eval_task_ids=[8]"],
    ):
        with pytest.raises(ConfigError, match=r"SCENE8_\w+\.bddl: the instruction asks for the left moka pot"):
            used(*overrides, config=config)
    with pytest.raises(ConfigError, match=r"env\.fixed_task_ids=\[8\]"):
        used("env.suite=libero_10_task", "env.fixed_task_ids=[8]", config=config, learns=True)


def test_a_checkpoint_is_evaluated_on_perturbations_of_its_suite_only(tmp_path: Path):
    base = load_config(TINY).actor.checkpoint_load_path
    Lineage("sequential", "libero_spatial", 7, (0,), (0,), base).save(tmp_path)
    check_lineage(load_config(TINY, [f"env.suite={SWAP}"]), tmp_path, learns=False)
    for suite, learns in ((SWAP, True), ("libero_object_swap", False), ("libero_goal", False)):
        with pytest.raises(ConfigError, match="trained with suite libero_spatial"):
            check_lineage(load_config(TINY, [f"env.suite={suite}"]), tmp_path, learns=learns)


# -------------------------------------------------------------------------------------------------- plans and resuming


def planned(workspace: Workspace, *lines: Evaluated) -> tuple[Step, ...]:
    request = SequenceRequest(stages=((0,),), seed=7)
    return plan_sequence(request, recipe(env__eval_suites=[LAN, SWAP]), workspace=workspace, ledger=lines)


def test_only_suites_that_are_missing_are_planned(tmp_path: Path):
    workspace = at(tmp_path)
    (step,) = planned(workspace, Evaluated("base", 7, "base", "libero_spatial"))
    assert step.todo[0] == f"evaluate the base model of {LAN}, {SWAP}"
    save(tmp_path / "logs/sequential/task_0_seed7", 10)
    done = [Evaluated("base", 7, "base", suite) for suite in ("libero_spatial", LAN)]
    done += [Evaluated("task_0", 7, ACTOR, suite) for suite in ("libero_spatial", SWAP)]
    late, step = planned(workspace, *done)
    assert late.command[-2:] == (f"env.suite={SWAP}", "env.eval_suites=[]")
    assert late.folder == "logs/sequential/base_seed7"
    assert step.todo == (f"evaluate all tasks of {LAN}",)
    done += [Evaluated("base", 7, "base", SWAP), Evaluated("task_0", 7, ACTOR, LAN)]
    (step,) = planned(workspace, *done)
    assert step.todo == ()


def test_a_run_finds_what_is_recorded_however_the_checkpoint_is_spelt(logs: Path):
    path = logs / LEDGER_FILE
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        line["checkpoint"] = line["checkpoint"].replace("global_step_6", "checkpoints/global_step_6/actor")
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    settings = [f"env.eval_suites=[{LAN},{SWAP}]", "env.fixed_task_ids=[0]", "runner.seed=7", "runner.max_epochs=6"]
    state = find_state(load_config(TINY, settings), logs / "task_0_seed7")
    assert state.missing_base == (SWAP,)
    assert state.missing_after == (SWAP,)


def test_evaluations_of_a_perturbed_suite_lie_with_what_was_learnt(tmp_path: Path):
    for suite, folder in (("libero_spatial_swap", "logs/"), ("libero_10_task", "logs_libero_10/")):
        step = plan_evaluation("base", None, recipe(env__suite=suite), workspace=at(tmp_path))
        assert step.folder == f"{folder}sequential/base_seed1234"


def test_the_configuration_of_a_further_suite_differs_in_nothing_else():
    config = load_config(TINY, [f"env.eval_suites=[{SWAP}]"])
    assert on_suite(config, "libero_spatial") is config
    assert on_suite(config, SWAP) == load_config(TINY, [f"env.suite={SWAP}"])


# -------------------------------------------------------------------------------------------------- ledger and report


def test_records_of_further_suites_come_back_and_stay_out_of_the_matrix(logs: Path):
    records = ledger.read(logs / LEDGER_FILE)
    assert [one.suite for one in records if one.is_further] == [LAN, LAN, "libero_spatial_task"]
    (experiment,) = collect([logs])
    assert experiment.matrix is not None
    assert experiment.matrix.success_RK.tolist() == [[0.4] * 10, [0.6] * 10]


def test_a_ledger_without_further_suites_is_read_as_before(logs: Path):
    path = logs / LEDGER_FILE
    lines = [json.loads(line) for line in path.read_text().splitlines()][:2]
    for line in lines:
        del line["learnt_suite"]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    (experiment,) = collect([logs])
    assert experiment.matrix is not None
    assert experiment.further == {}
    assert "Generalisation" not in write_report([experiment], logs / "page.html").read_text()
    assert "stage" not in csv_table([experiment])


def test_the_report_shows_further_suites_beside_the_matrix(logs: Path, capsys: pytest.CaptureFixture[str]):
    (experiment,) = collect([logs])
    assert list(experiment.further) == [LAN, "libero_spatial_task"]
    page = write_report([experiment], logs / "page.html").read_text()
    assert "<h2>Generalisation</h2>" in page
    assert "LIBERO-Spatial, other goals, task by task, without task 8" in page
    (mean, _) = csv.DictReader(csv_table([experiment]).splitlines())
    keys = [f"{LAN}_stage_0", f"{LAN}_stage_1", "libero_spatial_task_stage_0", "libero_spatial_task_stage_1", "avg"]
    assert [mean[key] for key in keys] == ["0.3", "0.5", "", "0.2", "0.6"]
    tables = latex([experiment])
    assert r"Other words $\uparrow$ & Other goals $\uparrow$" in tables
    assert "base model & 40.0" in tables
    assert cli.main([str(logs), "--out", str(logs / "page.html")]) == 0
    told = capsys.readouterr().out
    assert "  base model: LIBERO-Spatial 40%, other words 30%, other goals –\n" in told
    assert "  after task 0: LIBERO-Spatial 60%, other words 50%, other goals 20%\n" in told


def test_an_evaluation_of_another_epoch_is_not_shown_with_a_row(logs: Path):
    path = logs / LEDGER_FILE
    after = ledger.read(path)[1]
    ledger.append(path, further(dataclasses.replace(after, checkpoint="global_step_9"), SWAP, {0: 1.0}))
    (experiment,) = collect([logs])
    assert SWAP not in experiment.further


def test_a_further_suite_alone_has_a_report_of_its_own(logs: Path):
    path = logs / LEDGER_FILE
    path.write_text("".join(line + "\n" for line in path.read_text().splitlines() if LAN in line))
    (experiment,) = collect([logs])
    assert experiment.title == "Sequential fine-tuning on LIBERO-Spatial, other words"
    assert experiment.matrix is not None
    assert experiment.matrix.success_RK.tolist() == [[0.3] * 10, [0.5] * 10]
