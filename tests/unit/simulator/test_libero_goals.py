"""Tasks whose goal is no test of success are refused, by themselves and with a reason."""

from __future__ import annotations

import pytest

from libero_runtime.assets.goal_faults import goal_fault
from libero_runtime.commands import LiberoError
from libero_runtime.sim.models import build_env
from libero_runtime.suites import load_suite, standard_suite, suite_names

FAULTY = {("libero_10_object", 5), ("libero_10_task", 8)}
PROBLEM = """(define (problem LIBERO_Kitchen) (:domain robosuite) ; a comment )
  (:language put the left moka pot on the stove)
  (:fixtures stove_1 - flat_stove) (:objects moka_pot_1 moka_pot_2 - moka_pot)
  (:init (Turnon stove_1)) (:goal GOAL))"""


def test_all_others_of_the_published_tasks_can_be_played():
    suites = [load_suite(name) for name in suite_names()]
    assert {(task.suite, task.task_id) for suite in suites for task in suite.tasks if task.fault} == FAULTY
    assert sum(len(suite.tasks) for suite in suites) == 290


@pytest.mark.parametrize(("suite", "task_id"), sorted(FAULTY))
def test_a_faulty_task_is_refused_with_its_file_and_the_reason(suite: str, task_id: int):
    spec = load_suite(suite).tasks[task_id]
    with pytest.raises(LiberoError, match=rf"{spec.name}\.bddl: the instruction asks for"):
        load_suite(suite).task(task_id)
    with pytest.raises(LiberoError, match="is not played"):
        build_env(spec, quality="fast")
    assert load_suite(suite).task(0).fault is None


@pytest.mark.parametrize("goal", ["(And (On moka_pot_2 stove_1_top) (Turnoff stove_1))", "(on MOKA_POT_2 stove_1)"])
def test_goals_that_can_be_told(goal: str):
    assert goal_fault(PROBLEM.replace("GOAL", goal)) is None


@pytest.mark.parametrize(
    ("goal", "reason"),
    [  # the first two as LIBERO-PRO's generator writes them
        ("(On moka_pot_2 stove_1))", "Missing open parenthesis"),
        ("And (Turnon stove_1) (On moka_pot_2 stove_1))", "Missing open parenthesis"),
        ("(And (On moka_pot_2 stove_1)", "Missing close parenthesis"),
        ("And (On moka_pot_2 stove_1)", "a word where a predicate is expected"),
        ("(And)", "none at all"),
        ("(Above moka_pot_2 stove_1)", "does not know"),
        ("(And (Turnon stove_1 moka_pot_1))", "does not know"),
        ("(On moka_pot_3 stove_1)", "names moka_pot_3, which is not in the scene"),
        ("(On moka_pot_1 flat_stove_1_cook_region)", "not in the scene"),
    ],
)
def test_goals_that_cannot_be_told(goal: str, reason: str):
    fault = goal_fault(PROBLEM.replace("GOAL", goal))
    assert fault is not None
    assert reason in fault


def test_a_goal_that_was_mended_is_played():
    text = load_suite("libero_10_task").tasks[8].bddl_path.read_text(encoding="utf-8")
    assert goal_fault(text.replace("On moka_pot_1 flat", "On moka_pot_2 flat")) is None


def test_the_suite_that_a_perturbed_one_changes():
    assert standard_suite("libero_10_task") == "libero_10"
    unchanged = ["libero_object", "libero_90", "other"]
    assert [standard_suite(name) for name in unchanged] == unchanged
