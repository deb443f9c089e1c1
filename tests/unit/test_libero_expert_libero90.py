"""The scripted expert on LIBERO-90: an episode for each thing to do that the other suites do not ask for."""

import numpy as np
import pytest

from libero_runtime.expert import ScriptedExpert
from libero_runtime.sim.scene import Scene
from libero_runtime.suites import load_suite


@pytest.mark.parametrize(
    ("task_id", "longest"),
    [
        (6, 80),  # a drawer near the ground, dragged open
        (8, 330),  # a bowl into a drawer that is then opened fully
        (23, 250),  # a drawer closed and another opened, where a rack is in the arm's way
        (31, 150),  # a bowl beside an open drawer, which the forearm must not meet
        (32, 120),  # a bottle laid into a drawer
        (35, 150),  # a microwave opened
        (39, 90),  # a stove switched off
        (42, 100),  # a pan under a shelf, by its handle
        (62, 120),  # a bottle close to the robot, where the arm is folded
        (78, 110),  # a book turned to fit into a narrow compartment
        (89, 90),  # a book tilted and put under a shelf
    ],
)
def test_succeeds(task_id, longest):
    scene = Scene(load_suite("libero_90").task(task_id), image_size=32)
    try:
        scene.load(scene.start(init_index=0)[0])
        scene.refresh()
        expert = ScriptedExpert(scene)
        for _ in range(longest):
            action = expert.act()
            assert np.abs(action).max() <= 1.0
            if scene.step(action):
                break
        assert scene.success
        assert expert.num_attempts <= 2
    finally:
        scene.close()
