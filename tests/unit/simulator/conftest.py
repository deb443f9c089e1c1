"""What tests of the simulator share."""

import numpy as np
import pytest

from libero_runtime.expert import ScriptedExpert
from libero_runtime.sim.scene import Scene
from libero_runtime.suites import load_suite


@pytest.fixture(scope="session")
def expert_actions():
    """Actions (T, 7) of a successful scripted episode of LIBERO-Spatial 1 from initial state 0, fixtures of seed 5."""
    live = Scene(load_suite("libero_spatial").task(1), image_size=16)
    live.load(live.settled_start(init_index=0, seed=5)[0])
    live.refresh()
    expert, actions = ScriptedExpert(live), []
    while not live.success:
        actions.append(expert.act())
        live.step(actions[-1])
        assert len(actions) < 250
    live.close()
    return np.array(actions)
