"""The vector env on threads and over processes, without a compiler, on a bad state; what the renderer leaves out."""

import os
import pickle
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from libero_runtime.assets import robot
from libero_runtime.kernel import native
from libero_runtime.render import renderer as rendering
from libero_runtime.sim import models
from libero_runtime.sim.scene import Scene
from libero_runtime.suites import load_suite
from libero_runtime.vector.env import EpisodeStart, LiberoVectorEnv, SimulationError, VectorEnvError
from libero_runtime.vector.processes import LiberoProcessEnv

SUITE = "libero_spatial"
STARTS = [EpisodeStart(SUITE, task, index, seed) for task, index, seed in ((0, 0, 0), (0, 1, 0), (3, 0, 1), (3, 0, 2))]


def random_actions(num_envs, num_actions, *, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (num_envs, num_actions, 7)).astype(np.float32)


@pytest.mark.parametrize("others", [{"num_threads": 3}, {"num_threads": 2, "max_scenes": 1}, {"num_workers": 2}])
def test_threads_and_processes_change_no_bit(others):
    one = LiberoVectorEnv(num_envs=4, image_size=32)
    many = (LiberoProcessEnv if "num_workers" in others else LiberoVectorEnv)(num_envs=4, image_size=32, **others)
    first, second = one.reset(STARTS), many.reset(STARTS)
    assert np.array_equal(first.images_BNHWC, second.images_BNHWC)
    assert first.languages == second.languages
    for chunk, ids in enumerate(([0, 1, 2, 3], [3, 0, 2, 1], [2, 0])):
        actions, limits = random_actions(len(ids), 5, seed=chunk), [5, 3, 5, 0][: len(ids)]
        expected, given = (env.step_chunk(actions, ids, max_steps_B=limits, record_every=2) for env in (one, many))
        assert np.array_equal(expected.frames.images_BNHWC, given.frames.images_BNHWC)
        assert np.array_equal(expected.frames.proprio_BP, given.frames.proprio_BP)
        assert np.array_equal(expected.success_BC, given.success_BC)
        assert given.num_steps_B.tolist() == limits
        assert given.failures_B == (None,) * len(ids)
        assert given.recorded.keys() == expected.recorded.keys() == set(ids)
        assert [len(given.recorded[env_id]) > 0 for env_id in ids] == [limit > 0 for limit in limits]
        for env_id, frames in expected.recorded.items():
            assert np.array_equal(frames, given.recorded[env_id])
    one.close()
    many.close()


PLAIN = """
import sys
import numpy as np
from libero_runtime.kernel import native
from libero_runtime.sim.scene import Scene
from libero_runtime.suites import load_suite
assert native.COMPILED == (sys.argv[1] == "1")
live = Scene(load_suite("libero_spatial").task(0), image_size=16, num_idle_steps=1)
state = live.settle(live.prepare(init_index=0, seed=0))[0]
done = live.advance(state, np.random.default_rng(0).uniform(-1, 1, (4, 7)))
assert done.failure is None and len(done.success) == 4
np.save(sys.argv[2], np.concatenate([done.state.integration, done.state.controller]))
"""


def test_plain_python_has_the_bits_of_compiled_code(tmp_path):
    """The compiled ones start at the same time and find nothing in the cache; then one finds what they left."""
    folder = tmp_path / "cache"

    def run(*choices):
        paths = [tmp_path / f"{i}.npy" for i in range(len(choices))]
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", PLAIN, choice, path],
                env=dict(os.environ, LIBERO_RUNTIME_COMPILED=choice, NUMBA_CACHE_DIR=str(folder)),
            )
            for choice, path in zip(choices, paths, strict=True)
        ]
        assert [process.wait(timeout=300) for process in processes] == [0] * len(choices)
        return [np.load(path) for path in paths]

    plain, one, other = run("0", "1", "1")
    np.testing.assert_allclose(plain, one, rtol=0, atol=1e-12)
    cached = sorted(folder.glob("*/*run_chunk*"))
    assert len(cached) == 2, "an index and one compiled version"
    (later,) = run("1")
    assert np.array_equal(one, other)
    assert np.array_equal(one, later)
    assert sorted(folder.glob("*/*run_chunk*")) == cached


def test_compiled_code_is_cached_by_the_sources_of_all_its_parts(tmp_path):
    folder = shutil.copytree(Path(native.__file__).parent, tmp_path / "kernel")
    assert native.source_stamp(folder) == native.source_stamp()
    native.source_stamp.cache_clear()
    with (folder / "osc.py").open("a") as file:
        file.write("\n")
    assert native.source_stamp(folder) != native.source_stamp()


def test_without_a_cache_folder_numba_still_compiles(tmp_path):
    """NUMBA_CACHE_DIR that cannot be written, as in a read-only container."""
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    code = (
        "from libero_runtime.kernel import native\n"
        "@native.compiled\n"
        "def twice(x):\n    return 2 * x\n"
        "assert twice(21) == 42\n"
    )
    env = dict(os.environ, NUMBA_CACHE_DIR=str(blocked / "cache"))
    done = subprocess.run([sys.executable, "-c", code], env=env, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def threaded():
    env = LiberoVectorEnv(num_envs=3, image_size=16, num_threads=2)
    yield env
    env.close()


def test_bad_state_names_the_episode_and_spares_the_others(threaded, tmp_path, monkeypatch):
    env = threaded
    monkeypatch.chdir(tmp_path)  # MuJoCo writes its log into the working folder
    env.reset(STARTS[:3])
    began = env.step_chunk(random_actions(3, 1)).frames

    def spoil(env_id):
        episode = env._episodes[env_id]
        episode.state.integration[1 + env._scene(episode.task).model.nq + 3] = np.nan

    spoil(1)
    with pytest.raises(SimulationError, match=r"environment 1: .*mjWARN_BADQVEL.* in control step 2 of libero_spatial "
                                              r"task 0 .* from initial state 1, seed 0") as raised:  # fmt: skip
        env.step_chunk(random_actions(3, 4), record_every=1)
    assert [env._episodes[env_id].state.num_steps for env_id in (0, 2)] == [5, 5]
    for error in (raised.value, pickle.loads(pickle.dumps(raised.value))):  # what the others did is not lost with it
        assert str(error) == error.result.failures_B[1] == str(raised.value)
        assert error.result.num_steps_B.tolist() == [4, 0, 4]
        assert error.result.success_BC.shape == (3, 4)
        assert error.result.failures_B[::2] == (None, None)
        assert [len(frames) for frames in error.result.recorded.values()] == [4, 0, 4]
        assert np.array_equal(error.result.frames.images_BNHWC[1], began.images_BNHWC[1])
        assert not np.array_equal(error.result.frames.proprio_BP[2], began.proprio_BP[2])
    for call in (lambda: env.step_chunk(random_actions(3, 4)), lambda: env.render([1])):
        with pytest.raises(VectorEnvError, match=r"environment 1 has no episode \(its last one failed\)"):
            call()

    monkeypatch.setattr(env, "_on_failure", "freeze")
    env.reset(STARTS[1:2], [1])
    spoil(0)
    before = env.observe([0])
    for _ in range(2):
        result = env.step_chunk(random_actions(3, 4))
        assert result.failures_B[1:] == (None, None)
        assert "environment 0: MuJoCo's state went bad" in result.failures_B[0]
        assert result.num_steps_B.tolist() == [0, 4, 4]
        assert np.array_equal(result.frames.images_BNHWC[:1], before.images_BNHWC)
    env.reset(STARTS[:1], [0])
    assert env.step_chunk(random_actions(3, 4)).failures_B == (None, None, None)


def test_a_bad_state_of_exact_stepping_spares_the_others(tmp_path, monkeypatch):
    """Positions that are no numbers: an object's MuJoCo resets, over the arm's robosuite trips."""
    monkeypatch.chdir(tmp_path)
    env = LiberoVectorEnv(num_envs=2, image_size=16, exact=True, on_failure="freeze")
    env.reset(STARTS[:2])
    expected = env.step_chunk(random_actions(2, 2)).frames
    for position, cause in ((-1, "mjWARN_BADQPOS"), (0, "robosuite's controller: ")):
        env.reset(STARTS[:2])
        before = env._episodes[0].state
        spoilt = before.integration.copy()
        spoilt[1 + position % env._scene(env._episodes[0].task).model.nq] = np.nan
        env._episodes[0].state = replace(before, integration=spoilt)
        result = env.step_chunk(random_actions(2, 2))
        failure = result.failures_B[0]
        assert failure.startswith(f"environment 0: MuJoCo's state went bad ({cause}")
        assert "in control step 1 of libero_spatial task 0 " in failure
        assert failure.endswith("from initial state 0, seed 0")
        assert result.failures_B[1] is None
        assert result.num_steps_B.tolist() == [0, 2]
        assert np.array_equal(result.frames.images_BNHWC[1], expected.images_BNHWC[1])
        assert np.array_equal(result.frames.proprio_BP[1], expected.proprio_BP[1])
    env.reset(STARTS[:1], [0])  # whatever the bad numbers left behind
    again = env.step_chunk(random_actions(2, 2), max_steps_B=[2, 0]).frames
    assert np.array_equal(again.images_BNHWC[0], expected.images_BNHWC[0])
    assert np.array_equal(again.proprio_BP[0], expected.proprio_BP[0])
    env.close()


def test_a_call_that_breaks_off_leaves_no_episode_behind_that_nobody_knows_the_state_of(threaded, monkeypatch):
    """Ctrl-C while frames are drawn: the threads have ended, and the environments not reported yet ask for a reset."""
    env = threaded
    env.reset(STARTS[:3])
    draw, count = Scene.images, iter(range(10))

    def interrupted(*arguments):
        if next(count) == 1:
            raise KeyboardInterrupt
        return draw(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Scene, "images", interrupted)
        with pytest.raises(KeyboardInterrupt):
            env.step_chunk(random_actions(3, 8))
    assert not env._pool._work_queue.qsize()
    for env_id in (1, 2):
        with pytest.raises(VectorEnvError, match=rf"environment {env_id} has no episode \(its last step_chunk"):
            env.step_chunk(random_actions(1, 1), [env_id])
    assert env.step_chunk(random_actions(1, 1), [0]).num_steps_B.tolist() == [1]
    env.reset(STARTS[1:3], [1, 2])

    def fail(*_, **__):
        raise RuntimeError("no more memory")

    with monkeypatch.context() as patch:
        patch.setattr(Scene, "start", fail)
        with pytest.raises(RuntimeError, match="no more memory"):
            env.reset(STARTS[3:4], [1])
    with pytest.raises(VectorEnvError, match=r"environment 1 has no episode \(its last reset"):
        env.step_chunk(random_actions(1, 1), [1])
    assert env.step_chunk(random_actions(2, 1), [0, 2]).num_steps_B.tolist() == [1, 1]


def test_leaving_out_unseen_geoms_changes_no_pixel():
    live = Scene(load_suite(SUITE).task(0), cameras=("agentview", "robot0_eye_in_hand", "frontview"), image_size=64)
    state, _ = live.start(init_index=0)
    renderer = live._renderer
    state = live.advance(state, random_actions(1, 8)[0].astype(np.float64)).state
    without = live.draw(state.pose)
    renderer._hide_unseen(live._full_data, renderer._camera_ids[1])
    assert (live._full_model.geom_group == rendering._HIDDEN_GROUP).sum() > 20
    live._full_model.geom_group[:] = renderer._groups
    renderer._culls = False
    assert np.array_equal(without, live.draw(state.pose))
    assert np.array_equal(live._full_model.geom_group, renderer._groups)
    live.close()


def test_merged_parts_of_the_robot_look_as_before(monkeypatch):
    """Parts of one colour become one geom; the others keep their names. Pixels differ where normals of parts meet."""
    monkeypatch.setattr(models, "with_coarse_robot", robot.with_coarse_robot.__wrapped__)
    images, geoms, names = [], [], []
    for merge in (robot._merge_parts, lambda root, meshes: None):
        monkeypatch.setattr(robot, "_merge_parts", merge)
        live = Scene(load_suite(SUITE).task(0), image_size=128)
        view = live.start(init_index=0)[1]
        model = live.env.sim.model._model
        images.append(view.images_NHWC.astype(float))
        geoms.append(int((model.geom_group == 1).sum()))
        names.append([model.geom(i).name for i in range(model.ngeom)])
        live.close()
        del live
    assert geoms[0] < geoms[1] - 20
    assert names[0] == names[1]
    assert np.abs(images[0] - images[1]).mean() < 0.05
