"""Demonstration files: planning, a real recording with two processes, and the command line's errors."""

import dataclasses
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

from libero_runtime.demonstration_parts import Parts
from libero_runtime.demonstration_plan import (
    DemonstrationError,
    EpisodeReport,
    Merge,
    RunOptions,
    Schedule,
    TaskBook,
    plan_attempt,
)
from libero_runtime.demonstrations import main
from libero_runtime.demos.__main__ import main as demos
from libero_runtime.demos.episodes import EpisodeOptions, EpisodePlan, run_episode
from libero_runtime.demos.hdf5 import add_parts, complete_file, demonstration_file, quaternions
from libero_runtime.drawing_devices import device_environment, drawing_devices, usable
from libero_runtime.folder_lock import FolderInUseError
from libero_runtime.number_lists import NumberError, parse_numbers
from libero_runtime.opengl import num_egl_devices, select_opengl
from libero_runtime.scene import Scene
from libero_runtime.suites import load_suite

TASK = 2  # the shortest one
FLAGS = ["--tasks", str(TASK), "--episodes-per-task", "2", "--image-size", "64", "--noise", "0.1", "--seed", "7"]


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demonstrations")
    assert main([*FLAGS, "--init-jitter", "0.01", "--num-workers", "2", "--output", str(folder)]) == 0
    return folder


@pytest.fixture(scope="module")
def options() -> RunOptions:
    return RunOptions(
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
            assert demo["actions"].shape == (steps, 7)
            assert demo["obs/agentview_rgb"].shape == (steps, 64, 64, 3)
            assert demo["obs/agentview_rgb"].dtype == np.uint8
            assert demo["states"].shape == (steps, 92)
            np.testing.assert_array_equal(demo.attrs["init_state"], demo["states"][0])
            assert demo["obs/ee_states"].shape == (steps, 6)
            assert demo["obs/joint_states"].shape == (steps, 7)
            assert demo["robot_states"].shape == (steps, 9)
            assert list(np.flatnonzero(demo["dones"])) == [steps - 1]
            assert list(np.flatnonzero(demo["rewards"])) == [steps - 1]


def test_recording_equals_an_episode_run_here(recorded, options):
    """Whatever process ran it: same plan, same numbers; pictures are turned by 180 degrees in the file."""
    task = load_suite("libero_spatial").task(TASK)
    scene = Scene(task, image_size=64)
    try:
        demo = run_episode(scene, plan_attempt(options, TASK, 1), options.episode)
        images_TNHWC = np.stack([scene.draw(pose) for pose in demo.poses])
    finally:
        scene.close()
    with h5py.File(recorded / f"{task.name}_demo.hdf5") as file:
        stored = file["data/demo_1"]
        np.testing.assert_array_equal(stored["actions"], demo.actions_TA)
        np.testing.assert_array_equal(stored["obs/ee_pos"], demo.proprio_TP[:, :3])
        np.testing.assert_array_equal(stored["obs/agentview_rgb"], images_TNHWC[:, 0, ::-1, ::-1])


def wait_for_an_attempt(log, process) -> None:
    deadline = time.monotonic() + 120
    while not (log.is_file() and log.read_text().strip()):
        assert process.poll() is None, "the run ended before it could be interrupted"
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_run_continues(recorded, tmp_path, how):
    """By whichever command: finished attempts are kept, and the demonstrations are those of a run in one go."""
    flags = [*FLAGS, "--init-jitter", "0.01", "--num-workers", "1"]
    command = [sys.executable, "-m", "libero_runtime.demonstrations", *flags, "--output", str(tmp_path)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        log = tmp_path / ".parts" / "attempts.jsonl"
        wait_for_an_attempt(log, process)
        if how == signal.SIGKILL:
            os.killpg(process.pid, how)  # the worker too
        else:
            process.send_signal(how)
        _, messages = process.communicate(timeout=60)
    if how == signal.SIGINT:
        assert process.returncode == 130
        assert "the same command continues" in messages
    assert len(log.read_text().splitlines()) == 1
    part = tmp_path / ".parts" / f"task{TASK}_attempt000000.hdf5"
    written = part.stat().st_mtime_ns
    with h5py.File(part, "a") as file:
        file["demo"].attrs["kept"] = written  # attempt 0 must not be made again

    short = [*flags[:2], "--episodes", *flags[3:]]
    assert demos(["libero_spatial", *short, "--out", str(tmp_path)]) == 0
    name = f"{load_suite('libero_spatial').task(TASK).name}_demo.hdf5"
    assert [path.name for path in tmp_path.iterdir()] == [name]
    with h5py.File(tmp_path / name) as file, h5py.File(recorded / name) as reference:
        assert file["data/demo_0"].attrs["kept"] == written
        for demo in ("demo_0", "demo_1"):
            np.testing.assert_array_equal(file["data"][demo]["actions"], reference["data"][demo]["actions"])


def test_a_finished_run_is_left_alone_and_other_options_are_refused(recorded, capsys):
    (file,) = recorded.iterdir()
    before = file.stat().st_mtime_ns
    flags = [*FLAGS, "--init-jitter", "0.01", "--num-workers", "1", "--output", str(recorded)]
    assert main(flags) == 0
    assert main([*flags, "--noise", "0.2", "--max-grasps", "2"]) == 2
    message = capsys.readouterr().err
    assert "episode.noise: 0.1 there, 0.2 now" in message
    assert "episode.max_grasps: 3 there, 2 now" in message
    assert "--restart" in message
    assert file.stat().st_mtime_ns == before
    assert list(recorded.iterdir()) == [file]


def test_parts_of_a_run_with_other_options_are_refused(tmp_path, options):
    def begin(noise: float, *, restart: bool = False) -> None:
        changed = dataclasses.replace(options, episode=dataclasses.replace(options.episode, noise=noise))
        with Parts(tmp_path, json.dumps(dataclasses.asdict(changed)), restart=restart).begun():
            pass

    begin(0.1)
    begin(0.1)
    with pytest.raises(DemonstrationError, match=r"episode.noise: 0.1 there, 0.3 now"):
        begin(0.3)
    begin(0.1)
    begin(0.3, restart=True)
    begin(0.3)


def test_two_runs_do_not_share_a_folder(tmp_path):
    first, second = (Parts(tmp_path, "{}", restart=False) for _ in range(2))
    with first.begun(), pytest.raises(FolderInUseError, match="another process is recording into"), second.begun():
        pass


def report(attempt: int, success: bool, task_id: int = 0) -> EpisodeReport:
    return EpisodeReport(task_id, attempt, success, 60 + attempt)


def test_a_book_recalls_attempts_and_makes_failures_good():
    book = TaskBook(0, 3)
    book.recall([report(0, True), report(1, False), report(3, True)])
    assert book.next_attempt() == 2
    assert book.pending == []
    assert book.successes == [0, 3]
    assert not book.complete
    book.finish(report(2, True))
    assert book.complete
    assert book.lengths == [60, 62, 63]
    assert book.num_attempts == 4


def test_a_book_keeps_the_first_successes_by_number_whatever_comes_first():
    """With attempts that ran ahead, as without."""
    outcomes = [True, False, True, False, False, True, True, True]
    for seed in range(20):
        book, order = TaskBook(0, 4), np.random.default_rng(seed)
        running: list[int] = []
        while not book.complete:
            while (book.pending or book.room_ahead > 0) and len(running) < 3:
                running.append(book.next_attempt())
            attempt = running.pop(int(order.integers(len(running))))
            book.finish(report(attempt, outcomes[attempt % 8]))
        assert book.successes == [0, 2, 5, 6]
        assert book.num_attempts == 7


def test_a_worker_with_nothing_to_do_runs_ahead_of_those_that_may_fail():
    book = TaskBook(0, 2)
    assert [book.next_attempt(), book.next_attempt()] == [0, 1]
    assert (book.pending, book.room_ahead) == ([], 2)
    assert [book.next_attempt(), book.next_attempt()] == [2, 3]
    assert book.room_ahead == 0
    book.finish(report(2, True))
    assert not book.complete
    assert book.room_ahead == 0
    book.finish(report(0, False))
    assert book.successes == [2]
    book.finish(report(1, True))
    assert book.successes == [1, 2]


def test_a_schedule_gives_needed_attempts_then_those_ahead_and_writes_files_at_once(options):
    schedule = Schedule(options, [TaskBook(0, 2), TaskBook(2, 2)])
    first = schedule.next_job(None, {})
    assert (first.task_id, first.attempt) == (0, 0)
    second = schedule.next_job(None, {0: 1})
    assert (second.task_id, second.attempt) == (2, 0)
    third = schedule.next_job(2, {0: 1, 2: 1})  # stays
    assert (third.task_id, third.attempt) == (2, 1)
    schedule.finish(second, report(0, True, 2))
    schedule.finish(third, report(1, True, 2))
    merge = schedule.next_job(2, {0: 1, 2: 1})
    assert merge == Merge(2, first=0, attempts=(0, 1), last=True)
    fourth, ahead = schedule.next_job(2, {0: 1, 2: 1}), schedule.next_job(2, {0: 2, 2: 1})
    assert [(job.task_id, job.attempt) for job in (fourth, ahead)] == [(0, 1), (0, 2)]
    schedule.finish(merge, None)  # its worker died
    assert schedule.next_job(2, {}) == merge
    schedule.finish(merge, merge)
    schedule.finish(ahead, report(2, True))
    schedule.finish(first, report(0, False))
    assert not schedule.finished
    schedule.finish(fourth, report(1, True))
    last = schedule.next_job(0, {})
    assert last == Merge(0, first=0, attempts=(1, 2), last=True)
    schedule.finish(last, last)
    assert schedule.finished


def test_files_grow_while_the_task_goes_on(options):
    schedule = Schedule(options, [TaskBook(2, 40)])
    plans = [schedule.next_job(2, {2: 1}) for _ in range(40)]
    for plan in plans[1:25]:
        schedule.finish(plan, report(plan.attempt, True, 2))
    ahead = schedule.next_job(2, {2: 1})
    assert isinstance(ahead, EpisodePlan)  # no file yet: the first attempt may still come before all of them
    schedule.finish(plans[0], report(0, False, 2))
    begin = schedule.next_job(2, {2: 1})
    assert begin == Merge(2, first=0, attempts=tuple(range(1, 25)), last=False)
    assert isinstance(schedule.next_job(2, {2: 1}), EpisodePlan)  # one process at a time writes into a file
    schedule.finish(begin, begin)
    for plan in [*plans[25:], ahead]:
        schedule.finish(plan, report(plan.attempt, True, 2))
    more = schedule.next_job(2, {2: 1})
    assert more == Merge(2, first=24, attempts=tuple(range(25, 41)), last=True)
    schedule.finish(more, None)  # its worker died: the file is begun anew
    last = schedule.next_job(2, {2: 1})
    assert last == Merge(2, first=0, attempts=tuple(range(1, 41)), last=True)
    schedule.finish(last, last)
    assert schedule.finished


def test_a_file_that_grew_is_one_written_at_once(recorded, tmp_path):
    (path,) = recorded.iterdir()
    task = load_suite("libero_spatial").task(TASK)
    parts = [tmp_path / f"part{index}.hdf5" for index in range(2)]
    with h5py.File(path) as file:
        for index, part in enumerate(parts):
            with h5py.File(part, "w") as target:
                file.copy(f"data/demo_{index}", target, name="demo")
        description = file["data"].attrs["options"]
    target = demonstration_file(tmp_path, task)
    add_parts(target, [parts[1]], first=0)  # of a run that was killed
    add_parts(target, parts[:1], first=0)
    add_parts(target, parts[1:], first=1)
    assert not target.exists()
    complete_file(target, task, cameras=("agentview",), image_size=64, options=description)
    with h5py.File(path) as expected, h5py.File(target) as file:
        assert dict(file["data"].attrs) == dict(expected["data"].attrs)
        for demo in ("demo_0", "demo_1"):
            for name in ("states", "obs/agentview_rgb"):
                np.testing.assert_array_equal(file["data"][demo][name], expected["data"][demo][name])


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
    monkeypatch.setattr("libero_runtime.drawing_devices.SOFTWARE", "no such extension")
    if select_opengl() == "egl" and not os.environ.get("CUDA_VISIBLE_DEVICES"):
        assert len(drawing_devices()) >= max(1, len(devices))  # the one that MuJoCo draws on by itself, at least
    monkeypatch.setenv("MUJOCO_EGL_DEVICE_ID", "0")
    assert drawing_devices() == []


def test_attempts_differ_but_repeat(options):
    plans = [plan_attempt(options, TASK, attempt) for attempt in (0, 50, 0)]
    assert plans[0] == plans[2]
    assert plans[0].init_index == plans[1].init_index == 0
    assert plans[0].seed != plans[1].seed
    assert plans[0].scene_seed != plans[1].scene_seed


def test_failed_attempts_are_replaced_until_it_is_hopeless():
    book = TaskBook(0, 2)
    assert [book.next_attempt(), book.next_attempt()] == [0, 1]
    book.finish(report(0, True))
    book.finish(report(1, False))
    assert book.pending == [2]
    for attempt in range(2, 8):
        assert book.next_attempt() == attempt
        if attempt < 7:
            book.finish(report(attempt, False))
    with pytest.raises(DemonstrationError, match="only 1 of 2 demonstrations after 8 attempts"):
        book.finish(report(7, False))


def test_parse_numbers():
    assert parse_numbers("0-3,7") == (0, 1, 2, 3, 7)
    for text in ("", "a", "3-1", "3-1,5", "1-", "-1", "²", "1,1"):
        with pytest.raises(NumberError):
            parse_numbers(text)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--episodes", "0"], "argument --episodes: expected a whole number of at least 1, given 0"),
        (["--noise", "-1"], "argument --noise: expected a number of at least 0, given -1"),
        (["--init-jitter", "nan"], "argument --init-jitter: expected a number of at least 0, given nan"),
        (["--seed", "-1"], "argument --seed: expected a whole number of at least 0, given -1"),
    ],
)
def test_numbers_that_do_not_fit_exit_with_2(tmp_path, capsys, flags, message):
    with pytest.raises(SystemExit) as end:
        demos(["libero_spatial", *flags, "--out", str(tmp_path)])
    assert end.value.code == 2
    assert message in capsys.readouterr().err


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
    assert main([*flags, "--num-workers", "1", "--output", str(tmp_path)]) == 2
    errors = capfd.readouterr().err
    assert message in errors
    assert "Traceback" not in errors


def test_a_file_is_no_folder(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert main(["--output", str(tmp_path / "file")]) == 2
    assert "is a file" in capsys.readouterr().err


def test_an_attempt_whose_worker_died_is_made_again(options):
    book = TaskBook(TASK, 2)
    schedule = Schedule(options, [book])
    first, second = (schedule.next_job(None, {}) for _ in range(2))
    schedule.finish(second, EpisodeReport(TASK, 1, True, 9))
    schedule.finish(first, None)
    assert schedule.next_job(TASK, {}) == first


def test_a_killed_worker_changes_no_demonstration(recorded, tmp_path):
    command = [sys.executable, "-m", "libero_runtime.demonstrations", *FLAGS, "--init-jitter", "0.01"]
    command += ["--num-workers", "1", "--output", str(tmp_path)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        wait_for_an_attempt(tmp_path / ".parts" / "attempts.jsonl", process)
        (worker,) = [p for p in psutil.Process(process.pid).children() if "spawn_main" in " ".join(p.cmdline())]
        worker.kill()
        _, messages = process.communicate(timeout=120)
    assert process.returncode == 0
    assert "was killed by SIGKILL; another one does it again" in messages
    (path,) = tmp_path.iterdir()
    with h5py.File(path) as file, h5py.File(recorded / path.name) as reference:
        for demo in ("demo_0", "demo_1"):
            np.testing.assert_array_equal(file["data"][demo]["actions"], reference["data"][demo]["actions"])


def test_quaternion_of_a_half_turn():
    np.testing.assert_allclose(quaternions(np.array([[np.pi, 0, 0]], dtype=np.float32)), [[1, 0, 0, 0]], atol=1e-6)
