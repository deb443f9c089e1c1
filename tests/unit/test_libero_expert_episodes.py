"""The scripted expert on real scenes, and its geometry by hand."""

import numpy as np
import pytest

from libero_runtime.expert import (
    CLOSE,
    OPEN,
    Drawer,
    ExpertState,
    Phase,
    ScriptedExpert,
    drawer_grasp,
    rotation_vector,
)
from libero_runtime.scene import Scene
from libero_runtime.suites import load_suite

DOWN = np.array([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, -1.0]])  # fingers open along y
TABLE = 0
DRAWER = 4


@pytest.fixture(scope="module")
def scenes():
    suite = load_suite("libero_spatial")
    made = {task_id: Scene(suite.task(task_id), image_size=32) for task_id in (TABLE, DRAWER)}
    yield made
    for scene in made.values():
        scene.close()


def episode(scene: Scene, *, init_index: int, noise: float = 0.0) -> tuple[bool, np.ndarray, ScriptedExpert]:
    slot, _ = scene.start(init_index=init_index)
    scene.load(slot)
    scene.refresh()
    expert, rng, actions = ScriptedExpert(scene), np.random.default_rng(init_index), []
    for _ in range(200):
        action = expert.act()
        actions.append(action)
        executed = action.copy()
        executed[:6] = np.clip(executed[:6] + noise * rng.standard_normal(6), -1, 1)
        if scene.step(executed):
            return True, np.array(actions), expert
    return False, np.array(actions), expert


@pytest.mark.parametrize(("task_id", "longest"), [(TABLE, 70), (DRAWER, 110)])
def test_succeeds_with_one_grasp_and_bounded_actions(scenes, task_id, longest):
    success, actions, expert = episode(scenes[task_id], init_index=1)
    assert success
    assert expert.num_grasps == 1
    assert len(actions) <= longest
    assert np.abs(actions).max() <= 1.0
    assert set(actions[:, 6]) == {OPEN, CLOSE}
    # one closing, no opening before the bowl is placed
    assert (np.diff(actions[:, 6]) != 0).sum() <= 2


def test_recovers_from_disturbed_actions(scenes):
    assert all(episode(scenes[TABLE], init_index=index, noise=0.3)[0] for index in (3, 4))


def test_is_a_function_of_the_state(scenes):
    first, second = (episode(scenes[TABLE], init_index=2)[1] for _ in range(2))
    np.testing.assert_array_equal(first, second)


def state(*, hand: tuple[float, float, float], gap: float = 0.08) -> ExpertState:
    return ExpertState(
        hand_pos=np.array(hand),
        hand_mat=DOWN,
        finger_gap=gap,
        bowl=np.array([-0.1, 0.0, 0.9]),
        plate=np.array([0.1, 0.2, 0.9]),
        drawer=None,
    )


def test_approaches_the_rim_from_above_with_open_fingers(scenes):
    expert = ScriptedExpert(scenes[TABLE])
    far = expert.decide(state(hand=(-0.2, 0.0, 1.2)))
    assert far[0] > 0
    assert far[1] > 0
    assert far[2] < 0
    assert far[6] == OPEN
    above = expert.decide(state(hand=(-0.1, 0.049, 1.0)))
    np.testing.assert_allclose(above[:2], 0.0, atol=0.02)
    assert above[2] == -1.0


def test_closes_at_the_rim_and_lifts_before_it_moves(scenes):
    expert = ScriptedExpert(scenes[TABLE])
    config = expert.config
    rim = (-0.1, config.rim_radius, 0.9 + config.rim_height - config.grip_depth)
    assert expert.decide(state(hand=rim))[6] == CLOSE
    assert expert.phase is Phase.GRASP
    lift = expert.decide(state(hand=rim, gap=0.005))
    assert expert.phase is Phase.CARRY
    np.testing.assert_allclose(lift[:2], 0.0, atol=1e-9)
    assert lift[2] > 0


def test_starts_again_when_the_bowl_is_lost(scenes):
    expert = ScriptedExpert(scenes[TABLE])
    config = expert.config
    rim = np.array([-0.1, config.rim_radius, 0.9 + config.rim_height - config.grip_depth])
    expert.decide(state(hand=tuple(rim)))
    expert.decide(state(hand=tuple(rim), gap=0.005))
    action = expert.decide(state(hand=(rim[0], rim[1], rim[2] + 0.06), gap=0.0))
    assert expert.phase is Phase.APPROACH
    assert action[6] == OPEN


def test_a_drawer_leaves_room_for_the_outer_finger():
    drawer = Drawer(
        center=np.zeros(3), side=np.array([1.0, 0.0]), out=np.array([0.0, 1.0]), half=np.array([0.10, 0.08]), top=0.1
    )
    free, direction = drawer_grasp(np.zeros(3), drawer, 0.049)
    assert free == 0.049
    np.testing.assert_allclose(direction, [-np.sqrt(0.5), np.sqrt(0.5)])
    near_the_wall, _ = drawer_grasp(np.array([-0.045, 0.025, 0.0]), drawer, 0.049)
    assert near_the_wall < 0.049


def test_rotation_vector_of_known_turns():
    quarter = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    np.testing.assert_allclose(rotation_vector(quarter), [0, 0, np.pi / 2], atol=1e-12)
    np.testing.assert_allclose(rotation_vector(np.eye(3)), 0.0)
