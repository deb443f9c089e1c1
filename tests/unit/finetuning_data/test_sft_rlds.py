"""RLDS without TensorFlow, on a sample that tensorflow-datasets wrote (``tests/data/rlds``), and on damaged copies."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from libero_runtime.suites import load_suite
from openvla_oft.data import rlds
from openvla_oft.data.demonstration import DemonstrationError, ReadOptions
from openvla_oft.data.tfrecord import records
from tests.unit.finetuning import sft_demos
from tests.unit.methods.replay_demos import feature, field, png, record, write_rlds

SAMPLE = Path(__file__).resolve().parents[2] / "data" / "rlds"
SHARD = "libero_spatial-train.tfrecord-0000{}-of-00002"
BOTH = ReadOptions(("agentview", "eye_in_hand"), proprio=True)
DECODERS_DIFFER_BY = 6
"""Grey levels: TensorFlow decodes JPEG with a faster, coarser transform."""


@pytest.fixture(scope="module")
def expected():
    with np.load(SAMPLE / "expected.npz") as arrays:
        return dict(arrays)


@pytest.fixture
def copy(tmp_path):
    """A copy of the sample; its folder of shards."""
    shutil.copytree(SAMPLE / "libero_spatial_no_noops", tmp_path / "libero_spatial_no_noops")
    return tmp_path / "libero_spatial_no_noops" / "1.0.0"


def scan(folder, options=BOTH):
    return list(rlds.scan(rlds.find_shards(folder, "libero_spatial"), options))


def load(folder, **overrides):
    return sft_demos.load(folder, **{"cameras": ("agentview", "eye_in_hand"), "image_size": 32, **overrides})


def test_frames_actions_and_sentences_are_those_that_tensorflow_datasets_wrote(expected):
    infos = scan(SAMPLE)
    assert sorted(info.num_steps for info in infos) == [6, 7, 8]
    for info in infos:
        demo = rlds.read_demo(info, BOTH)
        assert info.language == str(expected[f"{info.num_steps}/language"])
        assert np.array_equal(demo.actions_TA, expected[f"{info.num_steps}/actions"])
        assert np.array_equal(demo.proprio_TP, expected[f"{info.num_steps}/states"])
        images = expected[f"{info.num_steps}/images"]
        assert demo.images_TNHWC.shape == images.shape
        assert np.abs(demo.images_TNHWC.astype(int) - images).max() <= DECODERS_DIFFER_BY
        # Green grows to the right and red downwards, as written: nothing was rotated.
        main = demo.images_TNHWC[0, 0].astype(int)
        assert main[0, -1, 1] - main[0, 0, 1] > 150
        assert main[-1, 0, 0] - main[0, 0, 0] > 150


def test_the_trainers_data_set_comes_from_either_layout(expected):
    demos = load(SAMPLE)
    assert demos.num_frames == 21
    assert len(demos.languages) == 2
    lengths = demos.demo_lengths_D.tolist()
    assert np.array_equal(demos.actions_FA, np.concatenate([expected[f"{length}/actions"] for length in lengths]))
    assert load(SAMPLE / "libero_spatial_no_noops" / "1.0.0").num_frames == 21, "the shards' own folder may be named"
    assert load(SAMPLE, image_size=16).images_FNHWC.shape == (21, 2, 16, 16, 3)
    fewer = load(SAMPLE, drop_noops=True)
    assert fewer.num_frames == 21 - 2 * 3
    kept = [step for step in range(lengths[0]) if step not in (2, 3)]
    assert np.array_equal(fewer.images_FNHWC[: len(kept)], demos.images_FNHWC[kept])


def test_sentences_are_those_of_rollouts_and_hidden_files_are_not_read(tmp_path):
    """Converters have kept the scene that LIBERO-10's file names begin with."""

    def stated(text):
        return lambda features: features | {"steps/language_instruction": feature(1, field(1, text.encode()) * 5)}

    shard = tmp_path / "libero_10" / "own.tfrecord-00000-of-00001"
    task = load_suite("libero_10").tasks[2]
    for text, wanted in ((task.name.replace("_", " "), task.language), (" Wave, please ", "Wave, please")):
        write_rlds(shard, task_ids=[0], change=stated(text))
        for name in ("._own.tfrecord-00000-of-00001", ".ipynb_checkpoints/own.tfrecord-00000-of-00001"):
            (shard.parent / name).parent.mkdir(exist_ok=True)
            (shard.parent / name).write_bytes(b"\0\5\x16\7")
        assert rlds.find_shards(tmp_path, "libero_10") == [shard]
        assert [info.language for info in rlds.scan([shard])] == [wanted]


def test_a_flipped_bit_is_named_by_file_record_and_byte(copy):
    path = copy / SHARD.format(0)
    offset = [found.offset for found in records(path)][1]
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(data)
    with pytest.raises(
        DemonstrationError, match=rf"{path.name}, record 1 at byte {offset}: the data of \d+ bytes is corrupt"
    ):
        load(copy)
    data[-100] ^= 1
    data[offset] ^= 1
    path.write_bytes(data)
    with pytest.raises(DemonstrationError, match=rf"record 1 at byte {offset}: its length has a wrong checksum"):
        load(copy)


@pytest.mark.parametrize("left", [-1, 5])
def test_a_shard_that_is_cut_off_is_named(copy, left):
    path = copy / SHARD.format(1)
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(DemonstrationError, match=rf"{path.name}, record 0 at byte 0: the file is cut off"):
        load(copy)


def test_a_shard_that_is_cut_off_between_records_is_named(copy):
    path = copy / SHARD.format(0)
    ends = [found.offset for found in records(path)]
    path.write_bytes(path.read_bytes()[: ends[1]])
    with pytest.raises(DemonstrationError, match=rf"{path.name} holds 1 episodes; dataset_info.json says 2"):
        load(copy)


def test_an_empty_shard_is_told_without_dataset_info_too(copy):
    (copy / "dataset_info.json").unlink()
    assert load(copy).num_frames == 21
    (copy / SHARD.format(1)).write_bytes(b"")
    with pytest.raises(DemonstrationError, match=r"00001-of-00002 is empty; download it again"):
        load(copy)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", r"dataset_info\.json: no JSON"),
        ('{"splits": [{"name": "train", "shardLengths": ["3"]}]}', "one of 2 shards by its name, but .* lists 1"),
    ],
)
def test_a_damaged_dataset_info_is_told(copy, text, message):
    (copy / "dataset_info.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        load(copy)


def test_a_dataset_info_without_lengths_of_the_split_says_nothing(copy):
    (copy / "dataset_info.json").write_text('{"splits": [{"name": "train"}, {"name": "val", "shardLengths": ["9"]}]}')
    assert load(copy).num_frames == 21


def test_missing_shards_and_pointers_are_told(copy):
    (copy / SHARD.format(0)).unlink()
    with pytest.raises(DemonstrationError, match=r"1 of the 2 shards .* missing: 0"):
        load(copy)
    (copy / SHARD.format(0)).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(DemonstrationError, match="Git LFS pointer"):
        load(copy)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x0b no example", r"record 0 at byte 0 is not a tf\.train\.Example"),
        (b"", r"not a tf\.train\.Example \(it has no features\)"),
    ],
)
def test_records_that_are_no_episodes(tmp_path, data, message):
    (tmp_path / "x.tfrecord-00000-of-00001").write_bytes(record(data))
    with pytest.raises(DemonstrationError, match=message):
        load(tmp_path)


def pictures(values):
    return feature(1, b"".join(field(1, value) for value in values))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps/observation/image": None}, "record 0 at byte 0 has no steps/observation/image; its keys"),
        ({"steps/action": feature(2, field(1, bytes(4 * 13)))}, "steps/action holds 13 numbers, expected 7 per step"),
        ({"steps/action": b"\x12\x7f\x00"}, "record 0 at byte 0 is not a tf.train.Example .a field is cut off"),
        ({"steps/observation/image": pictures([png(np.zeros((8, 8, 3), np.uint8))] * 4)}, "5 actions, but 4 images"),
        ({"steps/observation/image": pictures([b"no JPEG"] * 5)}, "the agentview image of step 0 is broken"),
        (
            {"steps/observation/image": pictures([png(np.zeros((8, 6, 3), np.uint8))] * 5)},
            r"agentview images of sizes \[\(8, 6\)\], expected squares",
        ),
        (
            {"steps/action": feature(2, field(1, np.full(35, np.nan, "<f4").tobytes()))},
            "record 0 at byte 0: action nan at step 0, dimension 0",
        ),
    ],
)
def test_malformed_episodes_are_named(tmp_path, change, message):
    def changed(features):
        return {key: value for key, value in {**features, **change}.items() if value is not None}

    write_rlds(tmp_path / "x.tfrecord-00000-of-00001", task_ids=[0], size=8, change=changed)
    with pytest.raises(DemonstrationError, match=message):
        load(tmp_path, cameras=("agentview",))


def test_a_missing_suite_says_what_is_there(copy):
    with pytest.raises(DemonstrationError, match=r"no demonstration of libero_goal .* \['libero_spatial_no_noops'\]"):
        load(copy.parents[1], suite="libero_goal")
