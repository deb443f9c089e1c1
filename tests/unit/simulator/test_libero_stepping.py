"""The vector env on a bad state and with few scenes; the compiled step loop; what the renderer leaves out."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np

from libero_runtime.assets import robot
from libero_runtime.kernel import native
from libero_runtime.render import renderer as rendering
from libero_runtime.sim import models
from libero_runtime.sim.scene import Scene
from libero_runtime.suites import load_suite
from libero_runtime.vector.env import EpisodeStart, LiberoVectorEnv

SUITE = "libero_spatial"
STARTS = [EpisodeStart(SUITE, task, index, seed) for task, index, seed in ((0, 0, 0), (0, 1, 0), (3, 0, 1))]

TWICE = """
from libero_runtime.kernel import native

@native.compiled
def twice(x):
    return 2 * x

assert twice(21) == 42
"""


def random_actions(num_envs, num_actions, *, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (num_envs, num_actions, 7)).astype(np.float32)


def test_processes_that_compile_at_the_same_time_leave_one_version(tmp_path):
    folder, module = tmp_path / "cache", tmp_path / "twice.py"
    module.write_text(TWICE)

    def run(count):
        command, env = [sys.executable, str(module)], dict(os.environ, NUMBA_CACHE_DIR=str(folder))
        processes = [subprocess.Popen(command, env=env) for _ in range(count)]
        assert [process.wait(timeout=300) for process in processes] == [0] * count
        return {path: path.stat().st_mtime_ns for path in folder.glob("*/*twice*")}

    cached = run(2)
    assert len(cached) == 2, "an index and one compiled version"
    assert run(1) == cached, "which the next one takes"


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
    env = dict(os.environ, NUMBA_CACHE_DIR=str(blocked / "cache"))
    done = subprocess.run([sys.executable, "-c", TWICE], env=env, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_bad_state_names_the_episode_and_spares_the_others(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # MuJoCo writes its log into the working folder
    env = LiberoVectorEnv(num_envs=3, image_size=16)
    env.reset(STARTS)
    before = env.step_chunk(random_actions(3, 1)).frames
    episode = env._episodes[1]
    episode.state.integration[1 + env._scene(episode.task).model.nq + 3] = np.nan
    result = env.step_chunk(random_actions(3, 4), record_every=1)
    assert re.fullmatch(
        r"environment 1: .*mjWARN_BADQVEL.* in control step 2 of libero_spatial task 0 .* from initial state 1, seed 0",
        result.failures_B[1],
    )
    assert result.failures_B[::2] == (None, None)
    assert result.num_steps_B.tolist() == [4, 0, 4]
    assert [len(frames) for frames in result.recorded.values()] == [4, 0, 4]
    assert np.array_equal(result.frames.images_BNHWC[1], before.images_BNHWC[1])
    assert not np.array_equal(result.frames.proprio_BP[2], before.proprio_BP[2])
    again = env.step_chunk(random_actions(3, 2))
    assert again.failures_B == result.failures_B
    assert again.num_steps_B.tolist() == [2, 0, 2]
    env.reset(STARTS[1:2], [1])
    assert env.step_chunk(random_actions(3, 4)).failures_B == (None, None, None)
    env.close()


def test_scenes_that_are_dropped_and_rebuilt_change_no_bit():
    many, few = (LiberoVectorEnv(num_envs=3, image_size=16, max_scenes=count) for count in (2, 1))
    first, second = many.reset(STARTS), few.reset(STARTS)
    assert np.array_equal(first.images_BNHWC, second.images_BNHWC)
    assert first.languages == second.languages
    for chunk, ids in enumerate(([0, 1, 2], [2, 0, 1])):
        expected, given = (env.step_chunk(random_actions(3, 5, seed=chunk), ids) for env in (many, few))
        assert np.array_equal(expected.frames.images_BNHWC, given.frames.images_BNHWC)
        assert np.array_equal(expected.frames.proprio_BP, given.frames.proprio_BP)
    many.close()
    few.close()


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
