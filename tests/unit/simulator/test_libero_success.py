"""Goal predicates as tables against LIBERO's own answers, on states where both answers occur."""

import math

import mujoco
import numpy as np
import pytest

from libero_runtime.commands import LiberoError
from libero_runtime.sim.scene import Scene
from libero_runtime.sim.success import compile_goal, threshold_of
from libero_runtime.suites import load_suite

# Between them: objects on objects, in and on regions of tables, drawers, racks, stoves and caddies, every joint test.
TASKS = [
    ("libero_spatial", 0), ("libero_object", 1), ("libero_goal", 3), ("libero_goal", 5), ("libero_goal", 9),
    ("libero_10", 2), ("libero_10", 5), ("libero_10", 9), ("libero_90", 39),
]  # fmt: skip
NUM_STATES = 150


def sync(live):
    """Bring robosuite's own simulation to the loaded episode."""
    sim = live.env.sim
    live.draw(live.save().pose, num_cameras=0)
    mujoco.mj_fwdPosition(sim.model._model, sim.data._data)


def joint_predicates(env):
    """Every test of a drawer, door or knob in the scene, asked for by the goal or not."""
    for name, site in env.object_sites_dict.items():
        if site.joints and hasattr(env.get_object(site.parent_name), "is_open"):
            yield from (("open", name), ("close", name))
    for name in env.fixtures_dict:
        fixture = env.get_object(name)
        if fixture.object_properties.get("articulation", {}).get("default_turnon_ranges"):
            yield from (("turnon", name), ("turnoff", name))
        elif name.startswith("microwave"):
            yield from (("open", name), ("close", name))


def place(live, predicate, rng):
    """Move what a predicate is about to where its answer is in doubt."""
    env, model, data = live.env, live.model, live.data
    states = env.object_states_dict
    if len(predicate) == 2:
        what = states[predicate[1]]
        owner = env.get_object(what.parent_name if what.object_state_type == "site" else what.object_name)
        names = env.object_sites_dict[predicate[1]].joints if what.object_state_type == "site" else owner.joints
        edges = [edge for pair in owner.object_properties["articulation"].values() for edge in pair]
        for name in names:
            data.qpos[model.joint(name).qposadr[0]] = rng.choice(edges) + rng.choice([-1e-3, 0.0, 1e-3, 0.2])
        return
    body, where = env.obj_body_id[predicate[1]], states[predicate[2]]
    if where.object_state_type == "site":
        site = model.site(predicate[2]).id
        target, reach = data.site_xpos[site], np.abs(env.object_sites_dict[predicate[2]].size) + 0.03
    else:
        target, reach = data.xpos[env.obj_body_id[predicate[2]]], np.array([0.03, 0.03, 0.04])
    address = model.jnt_qposadr[model.body_jntadr[body]]
    data.qpos[address : address + 3] = target + rng.uniform(-1, 1, 3) * reach * 1.3
    quat = rng.normal(size=4) if rng.uniform() < 0.5 else np.array([1.0, 0.0, 0.0, 0.0])
    data.qpos[address + 3 : address + 7] = quat / np.linalg.norm(quat)


@pytest.mark.parametrize(("suite", "task_id"), TASKS)
def test_predicates_answer_as_liberos(suite, task_id):
    rng = np.random.default_rng(task_id)
    live = Scene(load_suite(suite).task(task_id), image_size=16, num_idle_steps=2)
    state, _ = live.start(init_index=0)
    predicates = [tuple(state) for state in live.env.parsed_problem["goal_state"]]
    predicates += [state for state in joint_predicates(live.env) if state not in predicates]
    goal = compile_goal(live.env, live.model)
    answers = {predicate: set() for predicate in predicates}
    for count in range(NUM_STATES):
        live.load(state)
        live.refresh()
        place(live, predicates[count % len(predicates)], rng)
        live.refresh()
        sync(live)
        for predicate in predicates:
            expected = bool(type(live.env)._eval_predicate(live.env, list(predicate)))
            assert live.holds(predicate) == expected, (predicate, count)
            answers[predicate].add(expected)
        stock = all(type(live.env)._eval_predicate(live.env, list(state)) for state in predicates[: len(goal.kind_K)])
        assert live._stepper.goal_met(goal) == stock
    assert all(seen == {True, False} for seen in answers.values()), answers
    live.close()


def test_a_stove_is_off_where_liberos_own_success_says_so():
    live = Scene(load_suite("libero_90").task(39), image_size=16)
    live.load(live.settled_start(init_index=0, seed=0)[0])
    knob = int(live.model.joint("flat_stove_1_button").qposadr[0])
    answers = []
    for angle in (-0.005, -1e-9, 0.0, 1e-9, 0.3, 0.5, 2.1):
        live.data.qpos[knob] = angle
        live.refresh()
        sync(live)
        answers.append(bool(live.env._check_success()))
        assert live._stepper.goal_met(live._goal) == answers[-1], angle
    assert answers[0]
    assert not answers[-1]
    live.close()


def test_threshold_is_found_with_its_side():
    assert threshold_of(lambda q: q >= 0.5, [0.5, 2.1]) == (1.0, 0.5, True)
    assert threshold_of(lambda q: q < -0.14, [-0.16, -0.14]) == (-1.0, -0.14, False)
    with pytest.raises(LiberoError, match="flips at none"):
        threshold_of(lambda q: True, [0.0, math.pi])
