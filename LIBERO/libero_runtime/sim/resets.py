"""The random part of an episode start: where LIBERO's own samplers put a task's fixtures."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import mujoco
import numpy as np


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed numpy's global generator, which LIBERO's samplers use, and leave it as it was."""
    before = np.random.get_state()
    np.random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(before)


def draw_fixtures(env: Any, model: mujoco.MjModel) -> None:
    """Place fixtures in a model as a stock reset does: same order of random draws, without the rest of it."""
    from robosuite.utils.errors import RandomizationError

    while True:
        np.random.randn(len(env.robots[0].init_qpos))  # stock draws (and scales by zero) joint noise first
        for initializer in env.object_property_initializers:
            initializer.sample()
        try:
            placements = env.placement_initializer.sample()
        except RandomizationError:  # no free place found: stock tries again, and so do we
            continue
        break
    for position, quat, placed in placements.values():
        if placed.name in env.fixtures_dict:
            body = env.sim.model.body_name2id(placed.root_body)
            model.body_pos[body] = position
            model.body_quat[body] = quat


def stock_reset(env: Any) -> None:
    """The physics calls of a stock hard reset, in order: each leaves a trace in the solver's warm start."""
    from robosuite.utils.errors import RandomizationError

    while True:
        env.sim.forward()
        env.sim.forward()  # stock's new renderer
        try:
            env._reset_internal()
        except RandomizationError:
            mujoco.mj_resetData(env.sim.model._model, env.sim.data._data)
            continue
        env.sim.forward()
        return
