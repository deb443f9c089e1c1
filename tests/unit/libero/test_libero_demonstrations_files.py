"""Demonstration files: planning, real recordings by one and two processes, and the command line's errors."""

import dataclasses
import errno
import json
import os
import signal
import subprocess
import sys
import time

import h5py
import numpy as np
import psutil
import pytest

from libero_runtime.demos import record
from libero_runtime.demos.cli import main as demonstrations
from libero_runtime.demos.episodes import EpisodeOptions, run_episode
from libero_runtime.demos.hdf5 import demonstration_file, quaternions
from libero_runtime.demos.plan import DemonstrationError, RunOptions, plan_attempt, wanted_attempts
from libero_runtime.demos.shards import Shards
from libero_runtime.files import FolderInUseError
from libero_runtime.opengl import select_opengl
from libero_runtime.render.devices import device_environment, drawing_devices, usable
from libero_runtime.sim.scene import Scene
from libero_runtime.suites import load_suite

TASK = 2  # the shortest one
FLAGS = ["--tasks", str(TASK), "--image-size", "32", "--noise", "0.1", "--seed", "7", "--init-jitter", "0.01"]
OPTIONS = RunOptions(
    suite="libero_spatial",
    tasks=(TASK,),
    episodes_per_task=2,
    seed=7,
    init_indices=tuple(range(50)),
    cameras=("agentview",),
    image_size=32,
    compression="lzf",
    episode=EpisodeOptions(noise=0.1, init_jitter=0.01),
)


def command(folder, *flags):
    return [*FLAGS, "--episodes-per-task", "2", "--output", str(folder), *flags]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demonstrations")
    assert demonstrations(command(folder, "--num-workers", "2")) == 0
    return folder


def is_the_same(folder, recorded) -> None:
    (path,) = folder.iterdir()
    with h5py.File(path) as file, h5py.File(recorded / path.name) as reference:
        assert sorted(file["data"]) == sorted(reference["data"])
        for demo in reference["data"]:
            for name in ("actions", "states", "obs/agentview_rgb"):
                np.testing.assert_array_equal(file["data"][demo][name], reference["data"][demo][name])


def test_layout_is_liberos(recorded):
    task = load_suite("libero_spatial").task(TASK)
    assert [path.name for path in recorded.iterdir()] == [f"{task.name}_demo.hdf5"]
    with h5py.File(recorded / f"{task.name}_demo.hdf5") as file:
        data = file["data"]
        assert sorted(data) == ["demo_0", "demo_1"]
        assert json.loads(data.attrs["problem_info"])["language_instruction"] == task.language
        assert data.attrs["num_demos"] == 2
        assert data.attrs["total"] == sum(demo.attrs["num_samples"] for demo in data.values())
        for demo in data.values():
            steps = int(demo.attrs["num_samples"])
            shapes = {
                "actions": (steps, 7),
                "states": (steps, 92),
                "robot_states": (steps, 9),
                "obs/agentview_rgb": (steps, 32, 32, 3),
                "obs/ee_states": (steps, 6),
                "obs/joint_states": (steps, 7),
            }
            assert {name: demo[name].shape for name in shapes} == shapes
            assert demo["obs/agentview_rgb"].dtype == np.uint8
            np.testing.assert_array_equal(demo.attrs["init_state"], demo["states"][0])
            assert list(np.flatnonzero(demo["dones"])) == list(np.flatnonzero(demo["rewards"])) == [steps - 1]


def test_recording_equals_an_episode_run_here(recorded):
    """Whatever process ran it: same plan, same numbers; images are turned by 180 degrees in the file."""
    task = load_suite("libero_spatial").task(TASK)
    scene = Scene(task, image_size=32)
    demo = run_episode(scene, plan_attempt(OPTIONS, TASK, 1), OPTIONS.episode)
    images_TNHWC = np.stack([scene.draw(pose) for pose in demo.poses])
    scene.close()
    with h5py.File(demonstration_file(recorded, task)) as file:
        stored = file["data/demo_1"]
        np.testing.assert_array_equal(stored["actions"], demo.actions_TA)
        np.testing.assert_array_equal(stored["obs/ee_pos"], demo.proprio_TP[:, :3])
        np.testing.assert_array_equal(stored["obs/agentview_rgb"], images_TNHWC[:, 0, ::-1, ::-1])


def workers_of(process):
    """Those that record; waits for them."""
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        assert process.poll() is None, "the run ended before it could be interrupted"
        alive = [one for one in psutil.Process(process.pid).children() if one.status() != psutil.STATUS_ZOMBIE]
        found = [child for child in alive if "spawn_main" in " ".join(child.cmdline())]
        if found:
            return found
        time.sleep(0.02)
    raise TimeoutError


def test_an_interrupted_run_continues(recorded, tmp_path):
    """A worker is killed, and others take over; then the command itself, with which its workers end; then Ctrl-C.

    Finished attempts are kept, and the demonstrations are those of a run in one go.
    """
    words = [sys.executable, "-m", "libero_runtime.demonstrations", *command(tmp_path, "--num-workers", "1")]
    shard = Shards(tmp_path, "").path(TASK, 0)
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        deadline = time.monotonic() + 240
        while not shard.is_file():
            assert process.poll() is None, "the run ended before it could be interrupted"
            assert time.monotonic() < deadline
            time.sleep(0.02)
        for child in workers_of(process):
            child.kill()
        while "what it had not finished is made again" not in process.stderr.readline():
            assert process.poll() is None
        workers = workers_of(process)
        process.kill()
    assert not psutil.wait_procs(workers, timeout=60)[1]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        workers = workers_of(process)
        process.send_signal(signal.SIGINT)
        _, messages = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "the same command continues" in messages
    assert not psutil.wait_procs(workers, timeout=60)[1]
    with h5py.File(shard, "a") as file:
        file["demo"].attrs["kept"] = 1  # attempt 0 must not be made again
    assert demonstrations(["libero_spatial", *FLAGS, "--episodes", "2", "--out", str(tmp_path)]) == 0
    is_the_same(tmp_path, recorded)
    with h5py.File(next(tmp_path.iterdir())) as file:
        assert file["data/demo_0"].attrs["kept"] == 1


def test_a_finished_run_is_left_alone_and_other_options_are_refused(recorded, capsys):
    (file,) = recorded.iterdir()
    before = file.stat().st_mtime_ns
    assert demonstrations(command(recorded)) == 0
    assert demonstrations(command(recorded, "--noise", "0.2", "--max-grasps", "2")) == 2
    message = capsys.readouterr().err
    assert "episode.noise: 0.1 there, 0.2 now" in message
    assert "episode.max_grasps: 3 there, 2 now" in message
    assert "--restart" in message
    assert file.stat().st_mtime_ns == before
    assert list(recorded.iterdir()) == [file]


def test_an_unfinished_run_is_continued_with_its_options_only_and_by_one_process(tmp_path):
    def begin(noise: float, *, restart: bool = False) -> dict[int, bool]:
        changed = dataclasses.replace(OPTIONS, episode=dataclasses.replace(OPTIONS.episode, noise=noise))
        shards = Shards(tmp_path, json.dumps(dataclasses.asdict(changed)))
        with shards.begun(restart=restart):
            before = shards.made(0)
            shards.path(0, 1).touch()
            shards.path(0, 0, success=False).touch()
            shards.path(0, 2).with_suffix(".partial").touch()
            with (
                pytest.raises(FolderInUseError, match="another process is recording into"),
                shards.begun(restart=False),
            ):
                pass
        return before

    assert begin(0.1) == {}
    assert begin(0.1) == {0: False, 1: True}
    with pytest.raises(DemonstrationError, match=r"episode.noise: 0.1 there, 0.3 now"):
        begin(0.3)
    assert begin(0.3, restart=True) == {}
    assert begin(0.3) == {0: False, 1: True}
    shards = Shards(tmp_path, "{}")
    shards.clear(0)
    assert [path.suffix for path in shards.folder.glob("task*")] == [".partial"], "a worker may be writing it"


def test_kept_are_the_first_successes_by_number():
    assert wanted_attempts(0, {}, 3) == (0, 1, 2)
    assert wanted_attempts(0, {0: True, 1: False, 4: True, 3: False}, 3) == (0, 2, 4)


def test_failed_attempts_are_replaced_until_it_is_hopeless():
    failed = dict.fromkeys(range(1, 7), False)
    assert wanted_attempts(0, {0: True, **failed}, 2) == (0, 7)
    with pytest.raises(DemonstrationError, match="task 0: only 1 of 2 demonstrations after 8 attempts"):
        wanted_attempts(0, {0: True, **failed, 7: False}, 2)


def test_attempts_differ_but_repeat():
    plans = [plan_attempt(OPTIONS, TASK, attempt) for attempt in (0, 50, 0)]
    assert plans[0] == plans[2]
    assert plans[0].init_index == plans[1].init_index == 0
    assert plans[0].seed != plans[1].seed
    assert plans[0].scene_seed != plans[1].scene_seed


def test_workers_take_turns_on_the_devices_that_robosuite_lets_through(monkeypatch):
    assert usable([0, 1], visible="") == [0, 1]
    assert usable([0, 1, 2], visible="1, 2") == [1, 2]
    chosen = [device_environment(worker, [0, 2]) for worker in range(3)]
    assert [environment["MUJOCO_EGL_DEVICE_ID"] for environment in chosen] == ["0", "2", "0"]
    assert device_environment(1, []) == {}
    monkeypatch.delenv("MUJOCO_EGL_DEVICE_ID", raising=False)
    devices = drawing_devices()
    monkeypatch.setattr("libero_runtime.render.devices.SOFTWARE", "no such extension")
    if select_opengl() == "egl" and not os.environ.get("CUDA_VISIBLE_DEVICES"):
        assert len(drawing_devices()) >= max(1, len(devices))  # the one that MuJoCo draws on by itself, at least
    monkeypatch.setenv("MUJOCO_EGL_DEVICE_ID", "0")
    assert drawing_devices() == []


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--tasks", "10"], "task id 10 is out of range"),
        (["--init-range", "0-70"], "--init-range 0-70: libero_spatial task 0 has initial states 0 to 49"),
        (["--cameras", "eye_in_hand,robot0_eye_in_hand"], "names a camera twice"),
        (["--cameras", "nope", "--tasks", "2"], "libero_spatial task 2: unknown camera 'nope': this"),
    ],
)
def test_user_errors_exit_with_2(tmp_path, capfd, flags, message):
    assert demonstrations([*flags, "--num-workers", "1", "--output", str(tmp_path)]) == 2
    errors = capfd.readouterr().err
    assert message in errors
    assert "Traceback" not in errors


def test_a_folder_that_cannot_be_written_is_told_in_one_message(tmp_path, capsys, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (tmp_path / "file").touch()
    assert demonstrations(["--output", str(tmp_path / "file")]) == 2
    assert f"{tmp_path / 'file'}: File exists; there is a file where a folder is expected" in capsys.readouterr().err
    monkeypatch.setattr(record, "_record_tasks", full)
    assert demonstrations(command(tmp_path)) == 2
    assert f"error: {tmp_path}: {os.strerror(errno.ENOSPC)}; free some space there" in capsys.readouterr().err


def test_quaternion_of_a_half_turn():
    np.testing.assert_allclose(quaternions(np.array([[np.pi, 0, 0]], dtype=np.float32)), [[1, 0, 0, 0]], atol=1e-6)
