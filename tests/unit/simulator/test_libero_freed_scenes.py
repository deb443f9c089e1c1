"""A closed scene's memory is free at once: nothing of it waits for the garbage collector."""

import gc
import importlib
import weakref

import numpy as np
import pytest

from libero_runtime.opengl import select_opengl
from libero_runtime.paths import prepare_libero
from libero_runtime.sim.scene import Scene
from libero_runtime.suites import load_suite
from libero_runtime.vector.env import EpisodeStart, LiberoVectorEnv


@pytest.fixture(autouse=True)
def no_collector():
    select_opengl()
    prepare_libero()
    importlib.import_module("libero.libero.envs")  # leaves exceptions behind, whose frames hold who imported it first
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def parts(scene):
    """What is large, or holds what is large."""
    held = {
        "environment": scene.env,
        "robosuite's simulation": scene.env.sim,
        "robot": scene.env.robots[0],
        "shared model": scene._shared,
        "full model": scene._full_model,
        "model": scene.model,
        "data": scene.data,
        "OpenGL context": scene._renderer._context,
    }
    return {name: weakref.ref(part) for name, part in held.items()}


def alive(references):
    return [name for name, reference in references.items() if reference() is not None]


def test_closing_frees_everything_while_the_scene_is_still_held():
    scene = Scene(load_suite("libero_10").task(6), image_size=16)
    state, _ = scene.start(init_index=0)
    scene.advance(state, np.zeros((1, 7)))
    assert not scene.holds(("on", "porcelain_mug_1", "plate_1"))
    references = parts(scene)
    assert len(alive(references)) == len(references)
    scene.close()
    assert alive(references) == []
    scene.close()
    assert scene.task.task_id == 6


def test_closing_one_of_two_scenes_of_a_model_spares_the_other():
    closed, kept = (Scene(load_suite("libero_spatial").task(task_id), image_size=16) for task_id in (0, 1))
    assert kept._shared is closed._shared
    state, before = kept.start(init_index=0)
    environment = weakref.ref(closed.env)
    closed.close()
    assert environment() is None
    kept._first_images.cache_clear()
    assert np.array_equal(kept.start(init_index=0)[1].images_NHWC, before.images_NHWC)
    kept.advance(state, np.zeros((1, 7)))
    references = parts(kept)
    kept.close()
    assert alive(references) == []


def test_a_scene_that_leaves_the_cache_is_freed():
    env = LiberoVectorEnv(num_envs=2, image_size=16, max_scenes=1)
    env.reset([EpisodeStart("libero_object", 0, index) for index in range(2)])
    env.step_chunk(np.zeros((2, 2, 7), np.float32))
    references = parts(next(iter(env._scenes.values())))
    env.reset([EpisodeStart("libero_goal", 0, 0)], [1])
    assert alive(references) == []
    env.step_chunk(np.zeros((2, 2, 7), np.float32))
    references = parts(next(iter(env._scenes.values())))
    env.close()
    assert alive(references) == []
