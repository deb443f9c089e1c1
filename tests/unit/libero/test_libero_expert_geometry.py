"""Geometry of the scripted expert, by hand."""

import numpy as np
import pytest

from libero_runtime.expert.grasps import Drawer, choose_grasp, drawer_grasp
from libero_runtime.expert.motion import (
    action,
    rotation_about_z,
    upright_hand,
)
from libero_runtime.expert.world import Boxes

LEFT, ROBOT = np.array([0.0, 1.0]), np.array([-0.6, 0.0])
NOTHING = Boxes(np.zeros((0, 2)), np.zeros((0, 2, 2)), np.zeros((0, 2)), np.zeros(0), np.zeros(0))


def block(half, *, turn=0.0):
    """Points in a box about the origin, turned about the vertical."""
    axes = [np.linspace(-extent, extent, 41) for extent in half]
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, 3) @ rotation_about_z(turn).T


def pipe(radius, height):
    """Points on a thin upright tube that stands on the origin."""
    angles, heights = np.meshgrid(np.linspace(0, 2 * np.pi, 180, endpoint=False), np.linspace(0, height, 30))
    return np.stack([radius * np.cos(angles), radius * np.sin(angles), heights], axis=-1).reshape(-1, 3)


def grasp_of(points, neighbours=NOTHING):
    return choose_grasp(points, neighbours, prefer=LEFT, robot=ROBOT)


def test_saturated_moves_keep_their_direction():
    hand = upright_hand(LEFT, 0.0)
    far = action(move=np.array([0.2, -0.1, 0.0]), hand_mat=hand, present_mat=hand, gripper=1.0)
    np.testing.assert_allclose(far, [1.0, -0.5, 0, 0, 0, 0, 1.0], atol=1e-12)


def test_a_narrow_box_is_taken_across_with_the_wrist_straight():
    grasp = grasp_of(block((0.04, 0.02, 0.01)))
    assert not grasp.on_wall
    np.testing.assert_allclose(grasp.finger_axis, LEFT, atol=1e-9)
    assert grasp.width == pytest.approx(0.04)
    np.testing.assert_allclose(grasp.offset[:2], 0.0, atol=1e-9)


def test_a_turned_box_turns_the_hand():
    grasp = grasp_of(block((0.045, 0.02, 0.03), turn=np.radians(30)))
    np.testing.assert_allclose(grasp.finger_axis, [-0.5, np.sqrt(0.75)], atol=0.05)


def test_a_wide_pipe_is_taken_by_its_wall_on_the_preferred_side():
    grasp = grasp_of(pipe(0.05, 0.10))
    assert grasp.on_wall
    np.testing.assert_allclose(grasp.offset[:2], [0.0, 0.05], atol=0.002)
    assert grasp.offset[2] == pytest.approx(0.10 - 0.017)


def test_a_wall_beside_an_obstacle_is_left_alone():
    beside = Boxes(np.array([[0.0, 0.11]]), np.eye(2)[None], np.array([[0.03, 0.02]]), np.zeros(1), np.array([0.2]))
    grasp = grasp_of(pipe(0.05, 0.10), beside)
    assert grasp.offset[1] < 0.04


def test_the_forearm_keeps_away_from_what_stands_beside_its_way():
    half = np.array([[0.1, 0.1]])
    drawer = Boxes(np.array([[-0.2, 0.18]]), np.eye(2)[None], half, np.array([0.2]), np.array([0.3]))
    assert grasp_of(pipe(0.05, 0.05), drawer).offset[1] < 0.0
    grasp = grasp_of(pipe(0.05, 0.05))
    np.testing.assert_allclose(grasp.offset[:2], [0.0, 0.05], atol=0.002)


def test_what_is_too_wide_and_solid_has_no_grasp():
    assert grasp_of(block((0.06, 0.06, 0.02))) is None


def test_boxes_keep_their_turn_when_they_stand_straight():
    mat = rotation_about_z(np.radians(45))
    boxes = Boxes.around(pos=np.zeros((1, 3)), mat=mat[None], aabb=np.array([[0, 0, 0, 0.1, 0.01, 0.05]]))
    along, across = np.array([0.05, 0.05]), np.array([-0.05, 0.05])
    np.testing.assert_allclose(
        boxes.distances(np.array([along, across]))[:, 0], [0.0, np.hypot(0.05, 0.05) - 0.01], atol=1e-9
    )
    np.testing.assert_allclose(boxes.high, 0.05)


def test_a_drawer_leaves_room_for_the_outer_finger():
    drawer = Drawer(
        fixture="cabinet", center=np.zeros(3), side=np.array([1.0, 0.0]), out=LEFT, half=np.array([0.10, 0.08]), top=0.1
    )
    bowl = pipe(0.049, 0.05)
    free = drawer_grasp(bowl, np.zeros(3), drawer)
    np.testing.assert_allclose(free.offset[:2], [-0.049 * np.sqrt(0.5), 0.049 * np.sqrt(0.5)], atol=1e-6)
    near_the_wall = drawer_grasp(bowl, np.array([-0.045, 0.025, 0.0]), drawer)
    assert np.hypot(*near_the_wall.offset[:2]) < 0.049
