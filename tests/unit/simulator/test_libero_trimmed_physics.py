"""What is left out of the physics model is missed by no trajectory: not one bit differs."""

import mujoco
import numpy as np

from libero_runtime.fidelity import visiting_actions
from libero_runtime.sim import stepper
from libero_runtime.sim.scene import Scene
from libero_runtime.sim.stepper import Stepper
from libero_runtime.suites import load_suite

BEYOND_RANGE_RAD = 0.3  # MuJoCo's limits are springs: with random actions at full scale joints went 0.05 too far


def geom_of(model, link):
    (geom,) = np.flatnonzero(model.geom_bodyid == model.body(f"robot0_link{link}").id)
    return int(geom)


def radii(model, one, other):
    """How far a radian of each joint between two links moves any point of the farther one at most (m)."""
    geom = geom_of(model, other)
    reach = np.linalg.norm(model.geom_pos[geom]) + model.geom_rbound[geom]
    found = []
    for link in range(other, one, -1):
        found.append(reach)
        reach += np.linalg.norm(model.body(f"robot0_link{link}").pos)
    return np.array(found[::-1])


def smallest_distance_bound(model, one, other):
    """A lower bound on the distance (m) of two links over all angles of the joints between them.

    Angles are searched in boxes: within one, nothing is nearer than at its centre less what the joints can move from
    there. Where this does not suffice, the box is halved.
    """
    data = mujoco.MjData(model)
    geoms = geom_of(model, one), geom_of(model, other)
    joints = [model.joint(f"robot0_joint{link}") for link in range(one + 1, other + 1)]
    addresses, moves = [joint.qposadr[0] for joint in joints], radii(model, one, other)
    ranges = np.array([joint.range for joint in joints]) + BEYOND_RANGE_RAD * np.array([-1.0, 1.0])
    boxes, bounds = [(ranges.mean(axis=1), np.ptp(ranges, axis=1) / 2)], []
    while boxes:
        center, half = boxes.pop()
        data.qpos[addresses] = center
        mujoco.mj_kinematics(model, data)
        distance = mujoco.mj_geomDistance(model, data, *geoms, 1.0, np.zeros(6))
        bound = distance - moves @ half
        if distance <= 0.0 or bound > 0.0:
            bounds.append(bound)
        else:
            axis = np.argmax(moves * half)
            half = np.where(np.arange(len(half)) == axis, half / 2, half)
            boxes += [(center + sign * half * (np.arange(len(half)) == axis), half) for sign in (-1, 1)]
    return min(bounds)


def test_links_left_out_of_the_search_for_contacts_cannot_touch():
    scene = Scene(load_suite("libero_goal").task(0), image_size=16)
    model = scene.model
    links = [geom_of(model, link) for link in range(8)]
    assert (model.geom_margin[links] == 0.0).all()
    assert not np.any([model.joint(f"robot0_joint{link}").pos for link in range(1, 8)])
    assert model.nexclude == len(stepper._LINKS_APART)
    for one, other in stepper._LINKS_APART:
        assert smallest_distance_bound(model, one, other) > 0.0, (one, other)
    assert smallest_distance_bound(model, 5, 7) < 0.0, "these do touch"
    scene.close()


def test_trimmed_physics_has_the_bits_of_the_whole(monkeypatch):
    scene = Scene(load_suite("libero_10").task(6), image_size=16)
    state, _ = scene.start(init_index=0)
    chance_TA = np.random.default_rng(0).uniform(-1.0, 1.0, (60, 7))
    actions_TA = np.concatenate([visiting_actions(scene, state, 60, seed=6), chance_TA])
    monkeypatch.setattr(stepper, "_LINKS_APART", ())
    whole_model = stepper.physics_model(scene._shared.xml, scene._full_model)
    assert whole_model.nexclude == 0
    whole = Stepper(whole_model, stepper.make_arm(scene.env, whole_model), scene._fixture_bodies)
    success_C = np.zeros(1, dtype=bool)
    simulations = scene._stepper, whole
    for each in simulations:
        each.load(state)
    for action in actions_TA:
        for each in simulations:
            each.run(action[None], scene._goal, stop_on_success=False, success_C=success_C)
        trimmed_state, whole_state = (stepper.integration_state(each.model, each.data) for each in simulations)
        assert np.array_equal(trimmed_state, whole_state)
        assert np.array_equal(scene.data.qfrc_constraint, whole.data.qfrc_constraint)
        assert np.array_equal(scene.data.contact.geom, whole.data.contact.geom)
    scene.close()
