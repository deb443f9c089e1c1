"""Demonstration files: planning, real recordings by one and two processes, and the command line's errors."""

import dataclasses
import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter

import h5py
import numpy as np
import psutil
import pytest

from libero_runtime.demos import record
from libero_runtime.demos.cli import demonstrations, demos
from libero_runtime.demos.episodes import EpisodeOptions, run_episode
from libero_runtime.demos.hdf5 import add_shards, complete_file, demonstration_file, quaternions
from libero_runtime.demos.plan import DemonstrationError, RunOptions, TaskProgress, Write, next_job, plan_attempt
from libero_runtime.demos.shards import Shards
from libero_runtime.folder_lock import FolderInUseError
from libero_runtime.opengl import num_egl_devices, select_opengl
from libero_runtime.render.devices import device_environment, drawing_devices, usable
from libero_runtime.sim.scene import Scene
from libero_runtime.suites import load_suite

TASK = 2  # the shortest one
FLAGS = ["--tasks", str(TASK), "--image-size", "64", "--noise", "0.1", "--seed", "7", "--init-jitter", "0.01"]
OPTIONS = RunOptions(
    suite="libero_spatial",
    tasks=(TASK,),
    episodes_per_task=2,
    seed=7,
    init_indices=tuple(range(50)),
    cameras=("agentview",),
    image_size=64,
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
                "obs/agentview_rgb": (steps, 64, 64, 3),
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
    scene = Scene(task, image_size=64)
    try:
        demo = run_episode(scene, plan_attempt(OPTIONS, TASK, 1), OPTIONS.episode)
        images_TNHWC = np.stack([scene.draw(pose) for pose in demo.poses])
    finally:
        scene.close()
    with h5py.File(demonstration_file(recorded, task)) as file:
        stored = file["data/demo_1"]
        np.testing.assert_array_equal(stored["actions"], demo.actions_TA)
        np.testing.assert_array_equal(stored["obs/ee_pos"], demo.proprio_TP[:, :3])
        np.testing.assert_array_equal(stored["obs/agentview_rgb"], images_TNHWC[:, 0, ::-1, ::-1])


def start_recording(folder):
    """A command with one worker that has finished its first attempt, and the file of that."""
    words = [sys.executable, "-m", "libero_runtime.demonstrations", *command(folder, "--num-workers", "1")]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + 240
    while not (shard := Shards(folder, "").path(TASK, 0)).is_file():
        assert process.poll() is None, "the run ended before it could be interrupted"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return process, shard


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_run_continues(recorded, tmp_path, how):
    """By whichever command: finished attempts are kept, and the demonstrations are those of a run in one go."""
    process, shard = start_recording(tmp_path)
    workers = psutil.Process(process.pid).children()
    process.send_signal(how)
    with process:
        _, messages = process.communicate(timeout=120)
    assert not psutil.wait_procs(workers, timeout=60)[1], "workers end with the process that started them"
    if how == signal.SIGINT:
        assert process.returncode == 130
        assert "the same command continues" in messages
    with h5py.File(shard, "a") as file:
        file["demo"].attrs["kept"] = 1  # attempt 0 must not be made again
    short = ["libero_spatial", *FLAGS, "--episodes", "2", "--num-workers", "1", "--out", str(tmp_path)]
    assert demos(short) == 0
    is_the_same(tmp_path, recorded)
    with h5py.File(next(tmp_path.iterdir())) as file:
        assert file["data/demo_0"].attrs["kept"] == 1


def test_a_killed_worker_changes_no_demonstration(recorded, tmp_path):
    process, _ = start_recording(tmp_path)
    with process:
        for child in psutil.Process(process.pid).children():
            if "spawn_main" in " ".join(child.cmdline()):
                child.kill()
        _, messages = process.communicate(timeout=240)
    assert process.returncode == 0
    assert "was killed by SIGKILL; another one does it again" in messages
    is_the_same(tmp_path, recorded)


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


def test_the_first_successes_by_number_are_kept_whatever_comes_first():
    """With attempts that ran ahead, as without, and those of an earlier run."""
    outcomes = [True, False, True, False, False, True, True, True]
    for seed in range(20):
        order = np.random.default_rng(seed)
        task, running = TaskProgress(0, 4, {attempt: outcomes[attempt] for attempt in (0, 3)[: seed % 3]}), []
        while task.num_kept < 4:
            while len(running) < 3 and (job := next_job(OPTIONS, [task], 0, Counter())):
                running.append(job)
            job = running.pop(int(order.integers(len(running))))
            task.finish(job, success=outcomes[job.attempt % 8])
        assert task.wanted == [0, 2, 5, 6]


def test_needed_attempts_come_first_then_those_ahead_and_files_are_written_at_once():
    tasks = [TaskProgress(0, 2), TaskProgress(2, 2)]

    def following(scene, **num_scenes):
        job = next_job(OPTIONS, tasks, scene, Counter({int(name[1:]): num for name, num in num_scenes.items()}))
        return job if job is None or isinstance(job, Write) else (job.task_id, job.attempt)

    def finish(task, attempt, success):
        tasks[task // 2].finish(plan_attempt(OPTIONS, task, attempt), success=success)

    assert following(None) == (0, 0)
    assert following(None, t0=1) == (2, 0)
    assert following(2, t0=1, t2=1) == (2, 1)  # stays with its scene
    finish(2, 0, True)
    finish(2, 1, True)
    write = Write(2, first=0, attempts=(0, 1), last=True)
    assert following(2, t0=1, t2=1) == write
    assert following(2, t0=1, t2=1) == (0, 1)
    assert following(2, t0=2, t2=1) == (0, 2)  # in case one fails
    tasks[1].forget(write)  # its process died
    assert following(2) == write
    tasks[1].finish(write, success=True)
    finish(0, 2, True)
    finish(0, 0, False)
    assert not tasks[0].is_written
    tasks[0].forget(plan_attempt(OPTIONS, 0, 1))  # its process died
    assert following(0) == (0, 1)
    finish(0, 1, True)
    assert following(0) == Write(0, first=0, attempts=(1, 2), last=True)


def test_files_grow_while_the_task_goes_on():
    task = TaskProgress(2, 40)

    def following():
        return next_job(OPTIONS, [task], 2, Counter({2: 1}))

    plans = [following() for _ in range(40)]
    for plan in plans[1:25]:
        task.finish(plan, success=True)
    ahead = following()
    assert ahead.attempt == 40  # no file yet: the first attempt may still come before all of them
    task.finish(plans[0], success=False)
    begin = following()
    assert begin == Write(2, first=0, attempts=tuple(range(1, 25)), last=False)
    assert not isinstance(following(), Write)  # one process at a time writes into a file
    task.finish(begin, success=True)
    for plan in [*plans[25:], ahead]:
        task.finish(plan, success=True)
    more = following()
    assert more == Write(2, first=24, attempts=tuple(range(25, 41)), last=True)
    task.forget(more)  # its process died: the file is begun anew
    last = following()
    assert last == Write(2, first=0, attempts=tuple(range(1, 41)), last=True)
    task.finish(last, success=True)
    assert task.is_written


def test_failed_attempts_are_replaced_until_it_is_hopeless():
    task = TaskProgress(0, 2)
    assert [task.next_attempt(), task.next_attempt()] == [0, 1]
    task.finish(plan_attempt(OPTIONS, 0, 0), success=True)
    task.finish(plan_attempt(OPTIONS, 0, 1), success=False)
    assert task.pending == [2]
    for attempt in range(2, 7):
        task.finish(plan_attempt(OPTIONS, 0, attempt), success=False)
    with pytest.raises(DemonstrationError, match="only 1 of 2 demonstrations after 8 attempts"):
        task.finish(plan_attempt(OPTIONS, 0, 7), success=False)


def test_attempts_differ_but_repeat():
    plans = [plan_attempt(OPTIONS, TASK, attempt) for attempt in (0, 50, 0)]
    assert plans[0] == plans[2]
    assert plans[0].init_index == plans[1].init_index == 0
    assert plans[0].seed != plans[1].seed
    assert plans[0].scene_seed != plans[1].scene_seed


def test_a_file_that_grew_is_one_written_at_once(recorded, tmp_path):
    (path,) = recorded.iterdir()
    task = load_suite("libero_spatial").task(TASK)
    shards = [tmp_path / f"shard{index}.hdf5" for index in range(2)]
    with h5py.File(path) as file:
        for index, shard in enumerate(shards):
            with h5py.File(shard, "w") as target:
                file.copy(f"data/demo_{index}", target, name="demo")
        description = file["data"].attrs["options"]
    target = demonstration_file(tmp_path, task)
    add_shards(target, [shards[1]], first=0)  # of a run that was killed
    add_shards(target, shards[:1], first=0)
    add_shards(target, shards[1:], first=1)
    assert not target.exists()
    complete_file(target, task, cameras=("agentview",), image_size=64, options=description)
    with h5py.File(path) as expected, h5py.File(target) as file:
        assert dict(file["data"].attrs) == dict(expected["data"].attrs)
    for shard in shards:
        shard.unlink()
    is_the_same(tmp_path, recorded)


def test_devices_are_those_that_robosuite_lets_through():
    assert usable([0, 1], visible="") == [0, 1]
    assert usable([0, 1, 2], visible="1, 2") == [1, 2]
    assert usable([0], visible="3") == []


def test_workers_take_devices_in_turns():
    chosen = [device_environment(worker, [0, 2]) for worker in range(3)]
    assert [environment["MUJOCO_EGL_DEVICE_ID"] for environment in chosen] == ["0", "2", "0"]
    assert device_environment(1, []) == {}


def test_devices_are_asked_for_unless_one_is_chosen(monkeypatch):
    monkeypatch.delenv("MUJOCO_EGL_DEVICE_ID", raising=False)
    devices = drawing_devices()
    assert set(devices) <= set(range(num_egl_devices()))
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
        (["--cameras", "agentview,agentview"], "names a camera twice"),
        (["--cameras", "eye_in_hand,robot0_eye_in_hand"], "names a camera twice"),
        (["--cameras", "nope", "--tasks", "2"], "task 2, attempt 0 from initial state 0: unknown camera 'nope': this"),
    ],
)
def test_user_errors_exit_with_2(tmp_path, capfd, flags, message):
    assert demonstrations([*flags, "--num-workers", "1", "--output", str(tmp_path)]) == 2
    errors = capfd.readouterr().err
    assert message in errors
    assert "Traceback" not in errors


def test_a_file_is_no_folder(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert demonstrations(["--output", str(tmp_path / "file")]) == 2
    assert "is a file" in capsys.readouterr().err


def test_a_full_disk_is_told_in_one_message(tmp_path, capsys, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(record, "_record_tasks", full)
    assert demonstrations(command(tmp_path)) == 2
    assert f"error: {tmp_path}: {os.strerror(errno.ENOSPC)}; free some space there" in capsys.readouterr().err


def test_quaternion_of_a_half_turn():
    np.testing.assert_allclose(quaternions(np.array([[np.pi, 0, 0]], dtype=np.float32)), [[1, 0, 0, 0]], atol=1e-6)
