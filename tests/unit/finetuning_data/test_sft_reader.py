"""HDF5 reader: orientation, resizing, order, packing, and what it says about bad files."""

import os
import re
import signal
import subprocess
import sys

import h5py
import numpy as np
import pytest
import torch

from libero_runtime.suites import load_suite
from openvla_oft import cli
from openvla_oft.data import dataset, hdf5
from openvla_oft.data.demonstration import DemonstrationError, ReadOptions, kept_steps
from tests.unit.finetuning import sft_demos
from tests.unit.finetuning.sft_demos import LANGUAGES, write_file, write_suite
from tests.unit.finetuning.sft_runs import packing


def scan(folder):
    return hdf5.scan(hdf5.find_files(folder, "libero_spatial"))


def load(folder, **overrides):
    return sft_demos.load(folder, **{"image_size": 16, **overrides})


def test_pictures_are_rotated_by_180_degrees(tmp_path):
    path = write_file(tmp_path / "a_demo.hdf5", language="x", num_demos=1, num_steps=2, size=4)
    with h5py.File(path) as file:
        stored = file["data/demo_0/obs/agentview_rgb"][()]
    (info,) = scan(tmp_path)
    images = hdf5.read_demo(info, ReadOptions(("agentview", "eye_in_hand"))).images_TNHWC
    assert images.shape == (2, 2, 4, 4, 3)
    for row in range(4):
        for column in range(4):
            assert (images[:, 0, row, column] == stored[:, 3 - row, 3 - column]).all()
    assert (images[:, 1] == 255 - images[:, 0]).all()


def test_pictures_read_a_few_at_a_time_are_those_of_all_at_once(tmp_path):
    """19 steps in blocks of 8, one block without any step that is kept."""
    size = 20
    actions = np.random.default_rng(1).uniform(0.1, 1, (19, 7))
    actions[:, 6] = -1
    actions[[2, *range(8, 16)], :6] = 0
    path = write_file(tmp_path / "a_demo.hdf5", language="x", num_demos=1, num_steps=19, size=48, actions=actions)
    with h5py.File(path) as file:
        stored_THWC = file["data/demo_0/obs/agentview_rgb"][()]
    kept = [step for step in range(19) if step != 2 and not 8 <= step < 16]
    pixels_TCHW = torch.from_numpy(stored_THWC[kept, ::-1, ::-1].copy()).permute(0, 3, 1, 2).float()
    expected_TCHW = torch.nn.functional.interpolate(
        pixels_TCHW, size=(size, size), mode="bicubic", align_corners=False, antialias=True
    )
    expected_THWC = expected_TCHW.clamp(0, 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
    (info,) = scan(tmp_path)
    demo = hdf5.read_demo(info, ReadOptions(image_size=size, drop_noops=True))
    assert np.array_equal(demo.images_TNHWC[:, 0], expected_THWC)
    assert np.array_equal(demo.actions_TA, actions[kept].astype(np.float32))


def test_demos_come_in_numeric_order_with_tasks_by_file(tmp_path):
    write_file(tmp_path / "b_demo.hdf5", language="second", num_demos=11, num_steps=3)
    write_file(tmp_path / "a_demo.hdf5", language="first", num_demos=1, num_steps=4)
    infos = scan(tmp_path)
    assert [info.name for info in infos] == ["demo_0"] + [f"demo_{i}" for i in range(11)]
    demos = load(tmp_path)
    assert demos.languages == ("first", "second")
    assert demos.frame_tasks().tolist() == [0] * 4 + [1] * 33
    assert demos.demo_lengths_D.tolist() == [4] + [3] * 11


def test_language_falls_back_to_the_file_name(tmp_path):
    path = write_file(tmp_path / "open_the_drawer_demo.hdf5", language="", num_demos=1, num_steps=2)
    assert scan(tmp_path)[0].language == "open the drawer"
    with h5py.File(path, "a") as file:
        del file["data"].attrs["problem_info"]
    assert scan(tmp_path)[0].language == "open the drawer"


def test_what_is_learnt_are_the_words_of_rollouts(tmp_path):
    """A file that OpenVLA's script wrote says its task by its name alone, LIBERO's say what is in the BDDL file."""
    for suite in ("libero_goal", "libero_10", "libero_90"):
        for task in load_suite(suite).tasks[::30]:
            path = tmp_path / f"{task.name}_demo.hdf5"
            words_in_bddl = re.search(r":language ([^)]+)", task.bddl_path.read_text())[1]
            for stated in (task.language, task.language.upper(), words_in_bddl, task.name, ""):
                write_file(path, language=stated, num_demos=1, num_steps=2, size=4)
                assert hdf5.scan([path])[0].language == task.language, stated
            with h5py.File(path, "a") as file:
                file["data"].attrs["bddl_file_name"] = f"bddl_files/{suite}/{task.name}.bddl"
            renamed = path.rename(tmp_path / "mine.hdf5")
            assert hdf5.scan([renamed])[0].language == task.language
    own = write_file(tmp_path / "KITCHEN_SCENE3_wave_demo.hdf5", language="", num_demos=1, num_steps=2)
    assert hdf5.scan([own])[0].language == "wave"
    write_file(own, language="Wave, please", num_demos=1, num_steps=2)
    assert hdf5.scan([own])[0].language == "Wave, please", "own instructions are kept as they are"


def test_a_pack_from_before_has_the_words_of_rollouts(tmp_path):
    write_file(tmp_path / "demos" / "x_demo.hdf5", language="wave", num_demos=1, num_steps=2)
    dataset.pack(sft_demos.reading(tmp_path / "demos", suite="libero_10", image_size=8), tmp_path / "pack")
    file = tmp_path / "pack" / dataset.PACK_FILE
    task = load_suite("libero_10").tasks[2]
    file.write_text(file.read_text().replace("wave", task.name.replace("_", " ")))
    packed = load(tmp_path / "pack", suite="libero_10", image_size=8)
    assert packed.languages == (task.language,)


def test_what_other_programs_leave_beside_demonstrations_is_not_read(tmp_path):
    write_file(tmp_path / "libero_spatial" / "a_demo.hdf5", language="x", num_demos=1, num_steps=2)
    for name in ("._a_demo.hdf5", ".DS_Store", ".ipynb_checkpoints/a_demo-checkpoint.hdf5", "folder.hdf5/x"):
        (tmp_path / "libero_spatial" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "libero_spatial" / name).write_bytes(b"\0\5\x16\7")
    assert [info.path.name for info in scan(tmp_path)] == ["a_demo.hdf5"]


def test_workers_and_pack_give_the_same_frames(tmp_path):
    write_suite(tmp_path / "demos")
    direct = load(tmp_path / "demos")
    parallel = load(tmp_path / "demos", num_workers=2)
    assert packing(tmp_path / "demos", tmp_path / "packed", size=16) == 0
    packed = load(tmp_path / "packed")
    by_two = sft_demos.reading(tmp_path / "demos", image_size=16, num_workers=2)
    dataset.pack(by_two, tmp_path / "packed_by_two")
    packed_by_two = load(tmp_path / "packed_by_two")
    for other in (parallel, packed, packed_by_two):
        assert np.array_equal(other.images_FNHWC, direct.images_FNHWC)
        assert np.array_equal(other.actions_FA, direct.actions_FA)
        assert np.array_equal(other.demo_lengths_D, direct.demo_lengths_D)
        assert other.languages == direct.languages == LANGUAGES
    assert [path.name for path in tmp_path.iterdir() if "unfinished" in path.name] == []
    with pytest.raises(ValueError, match="packed with --suite libero_spatial, but libero_goal is needed here"):
        load(tmp_path / "packed", suite="libero_goal")
    with pytest.raises(ValueError, match="packed with --image-size 16, but 32 is needed here"):
        load(tmp_path / "packed", image_size=32)


def test_pack_leaves_nothing_after_an_error(tmp_path, capsys):
    actions = np.zeros((5, 7))
    actions[3, 2] = np.nan
    write_file(tmp_path / "demos" / "a_demo.hdf5", language="x", num_demos=1, num_steps=5, actions=actions)
    assert packing(tmp_path / "demos", tmp_path / "packed") == 2
    assert "a_demo.hdf5, demo_0: action nan at step 3, dimension 2" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["demos"]


def test_ctrl_c_ends_packing_and_its_workers_with_one_line(tmp_path):
    """As a terminal sends it: to every process of the command. In a temporary folder as batch systems name them, too
    long for the path of a socket."""
    long = tmp_path / ("x" * 100)
    long.mkdir()
    write_suite(tmp_path / "demos", num_demos=30, num_steps=10, size=64)
    words = ["--demonstrations", tmp_path / "demos", "--output", tmp_path / "packed", "--num-workers", 2]
    words += ["--image-size", 256]
    command = [sys.executable, "-m", "openvla_oft.pack", *map(str, words)]
    environment = {**os.environ, "TMPDIR": str(long)}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True, env=environment)
    read = ""
    while not re.search(r" [1-9]\d*/60 ", read):
        part = process.stderr.read(1)
        assert part, read
        read += part
    os.killpg(process.pid, signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert error.splitlines()[-1] == "interrupted: nothing was written; the same command starts again"
    assert "Traceback" not in read + error
    assert {path.name for path in tmp_path.iterdir()} == {"demos", long.name}


def test_a_file_that_is_not_hdf5(tmp_path):
    (tmp_path / "a.hdf5").write_text("not HDF5")
    with pytest.raises(DemonstrationError, match=r"a\.hdf5 cannot be read as HDF5"):
        load(tmp_path)


def test_hdf5_that_is_cut_off_or_corrupt(tmp_path):
    path = write_file(tmp_path / "a_demo.hdf5", language="x", num_demos=1, num_steps=10)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DemonstrationError, match=r"a_demo\.hdf5 cannot be read as HDF5 .* cut off or corrupt"):
        load(tmp_path)
    with h5py.File(path, "w") as file:
        group = file.create_group("data").create_group("demo_0")
        group.create_dataset("actions", data=np.zeros((3, 7)))
        pictures = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
        group.create_dataset("obs/agentview_rgb", data=pictures, compression="gzip")
        place = group["obs/agentview_rgb"].id.get_chunk_info(0).byte_offset
    data = bytearray(path.read_bytes())
    data[place : place + 64] = bytes(64)
    path.write_bytes(data)
    with pytest.raises(DemonstrationError, match=r"a_demo\.hdf5, demo_0 cannot be read .* cut off or corrupt"):
        load(tmp_path)


def test_proprioception_is_read_packed_and_checked(tmp_path):
    write_suite(tmp_path / "demos", num_demos=2)
    with h5py.File(tmp_path / "demos" / "libero_spatial" / "task_1_demo.hdf5") as file:
        obs = file["data/demo_0/obs"]
        felt = np.concatenate([obs["ee_states"][()], obs["gripper_states"][()]], axis=1).astype(np.float32)
    demos = load(tmp_path / "demos", proprio=True)
    assert demos.proprio_FP.shape == (40, 8)
    assert np.array_equal(demos.proprio_FP[20:30], felt)
    assert load(tmp_path / "demos").proprio_FP is None
    assert packing(tmp_path / "demos", tmp_path / "packed", "--proprio", size=16) == 0
    assert np.array_equal(load(tmp_path / "packed", proprio=True).proprio_FP, demos.proprio_FP)
    assert packing(tmp_path / "demos", tmp_path / "without", size=16) == 0
    with pytest.raises(DemonstrationError, match="was packed without --proprio"):
        load(tmp_path / "without", proprio=True)


def test_noops_by_hand():
    """Motionless steps go, unless the gripper changes against the last kept step; at the start it does not matter."""
    actions = np.zeros((8, 7), np.float32)
    actions[:, 6] = [-1, 1, -1, -1, 1, 1, 1, 1]
    actions[[2, 6], 0] = [0.5, 2e-4]
    actions[7, 1] = 5e-5
    kept = kept_steps(actions, drop_noops=True, where="x")
    assert kept.tolist() == [False, False, True, False, True, False, True, False]
    assert kept_steps(actions, drop_noops=False, where="x").all()
    with pytest.raises(DemonstrationError, match="x: all 3 steps are no-ops"):
        kept_steps(np.zeros((3, 7), np.float32), drop_noops=True, where="x")


def test_noops_are_left_out_with_their_pictures(tmp_path):
    actions = np.random.default_rng(0).uniform(0.1, 1, (9, 7))
    actions[:, 6] = -1
    actions[[0, 4, 5], :6] = 0
    write_file(tmp_path / "demos" / "a_demo.hdf5", language="x", num_demos=2, num_steps=9, actions=actions)
    every, fewer = load(tmp_path / "demos"), load(tmp_path / "demos", drop_noops=True)
    kept = [1, 2, 3, 6, 7, 8]
    assert fewer.demo_lengths_D.tolist() == [6, 6]
    assert np.array_equal(fewer.images_FNHWC[6:], every.images_FNHWC[9:][kept])
    assert np.array_equal(fewer.actions_FA[:6], every.actions_FA[kept])
    assert packing(tmp_path / "demos", tmp_path / "packed", "--drop-noops", size=16) == 0
    assert np.array_equal(load(tmp_path / "packed", drop_noops=True).images_FNHWC, fewer.images_FNHWC)
    with pytest.raises(DemonstrationError, match="was packed with --drop-noops True, but False"):
        load(tmp_path / "packed")


def replaced(key, value=None):
    """Put a value in the place of a file's dataset or group, or without one an empty group."""

    def change(file):
        removed(key)(file)
        file.create_group(key) if value is None else file.create_dataset(key, data=value)

    return change


def removed(key):
    return lambda file: file.pop(key, None)


def attribute(value):
    return lambda file: file["data"].attrs.__setitem__("problem_info", value)


ACTIONS, SEEN, FELT = "data/demo_1/actions", "data/demo_1/obs/agentview_rgb", "data/demo_1/obs/ee_states"
STATED = "attribute problem_info is"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (removed(ACTIONS), "demo_1: no dataset actions; present"),
        (replaced(ACTIONS, np.zeros((10, 6))), r"demo_1: actions is \(10, 6\)"),
        (replaced(ACTIONS, np.full((10, 7), 1.5)), r"demo_1: an action of size 1\.5"),
        (replaced(ACTIONS, np.full((10, 7), np.inf)), "demo_1: action inf at step 0"),
        (removed(SEEN), "demo_1: no dataset obs/agentview_rgb"),
        (replaced(SEEN, np.zeros((9, 32, 32, 3), np.uint8)), r"demo_1: obs/agentview_rgb is uint8 \(9, 32, 32, 3\)"),
        (replaced(SEEN, np.zeros((10, 32, 24, 3), np.uint8)), "demo_1: obs/agentview_rgb is uint8"),
        (removed(FELT), "demo_1: no dataset obs/ee_states"),
        (replaced(FELT, np.full((10, 6), np.nan)), "demo_1: proprioception nan at step 0, dimension 0"),
        (removed("data"), "has no group 'data'"),
        (replaced("data"), "holds no demonstration"),
        (attribute("[1]"), rf"{STATED} '\[1\]', expected a JSON object with a language_instruction"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, change, message):
    path = write_file(tmp_path / "a_demo.hdf5", language="x", num_demos=2, num_steps=10)
    with h5py.File(path, "a") as file:
        change(file)
    with pytest.raises(DemonstrationError, match=message) as caught:
        load(tmp_path, proprio=True)
    assert str(path) in str(caught.value)


def test_an_instruction_in_pieces_or_bytes(tmp_path):
    path = write_file(tmp_path / "a_demo.hdf5", language="x", num_demos=1, num_steps=3)
    for info in ('{"language_instruction": ["o", "pen"]}', np.bytes_(b'{"language_instruction": "open"}')):
        with h5py.File(path, "a") as file:
            file["data"].attrs["problem_info"] = info
        assert scan(tmp_path)[0].language == "open"


def test_packing_twice_at_once_is_refused(tmp_path, capsys):
    write_suite(tmp_path / "demos")
    with cli.making(tmp_path / "packed", doing="packing"):
        assert packing(tmp_path / "demos", tmp_path / "packed") == 2
    assert f"another process is packing packed in {tmp_path}: process " in capsys.readouterr().err
    assert packing(tmp_path / "demos", tmp_path / "packed") == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["demos", "packed"]
