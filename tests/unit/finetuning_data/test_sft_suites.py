"""Demonstrations are of the suite that is asked for: its name is known, and no file says otherwise."""

from pathlib import Path

import h5py
import pytest

from openvla_oft.data import hdf5, reader
from openvla_oft.data.demonstration import DataOptions, DemonstrationError
from tests.unit.finetuning.sft_demos import write_file
from tests.unit.finetuning.sft_runs import packing, run

SAMPLE = Path(__file__).resolve().parents[2] / "data" / "rlds"


def scan(folder, suite):
    return reader.scan_suites(DataOptions(demonstrations=folder, suite=suite))


@pytest.fixture
def flat(tmp_path):
    """As ``libero_runtime.demonstrations --output`` writes them: files of one suite side by side."""
    folder = tmp_path / "demos"
    write_file(folder / "a_demo.hdf5", language="x", num_demos=2, num_steps=3, suite="libero_spatial")
    return folder


def test_files_of_another_suite_are_refused(flat, tmp_path, capsys):
    suite = "libero_spatial,libero_goal"
    assert len(scan(flat, "libero_spatial")) == 2
    assert run(flat, tmp_path / "policy", "--steps", "1", "--suite", suite) == 2
    message = f"{flat / 'a_demo.hdf5'} is of libero_spatial, but --suite libero_goal is asked for"
    assert message in capsys.readouterr().err
    assert packing(flat, tmp_path / "packed", "--suite", suite) == 2
    assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["demos"]


@pytest.mark.parametrize("suite", ["nosuch", "libero_spatial,", ".."])
def test_a_name_that_means_nothing_is_refused(flat, tmp_path, capsys, suite):
    assert run(flat, tmp_path / "policy", "--steps", "1", "--suite", suite) == 2
    error = capsys.readouterr().err
    assert "is neither one of libero_spatial, libero_object, libero_goal, libero_10, libero_90 nor a folder of" in error


def test_own_data_has_the_name_of_its_folder(flat):
    write_file(flat / "my_tasks" / "b_demo.hdf5", language="x", num_demos=1, num_steps=3)
    assert [info.path.name for info in scan(flat, "my_tasks")] == ["b_demo.hdf5"]


@pytest.mark.parametrize(
    ("attributes", "suite"),
    [
        ({"bddl_file_name": "libero_goal/turn_on.bddl"}, "libero_goal"),
        ({"bddl_file_name": "bddl_files/libero_100/x.bddl", "env_name": "Libero_Kitchen_Tabletop_Manipulation"}, None),
        ({"env_name": "libero_object"}, "libero_object"),
        ({}, None),
    ],
)
def test_where_a_file_says_its_suite(tmp_path, attributes, suite):
    path = write_file(tmp_path / "a_demo.hdf5", language="x", num_demos=1, num_steps=3)
    with h5py.File(path, "a") as file:
        for name, value in attributes.items():
            file["data"].attrs[name] = value
    assert [info.suite for info in hdf5.scan([path])] == [suite]


def test_shards_say_it_by_their_names(tmp_path):
    folder = SAMPLE / "libero_spatial_no_noops" / "1.0.0"
    assert len(scan(folder, "libero_spatial")) == 3
    with pytest.raises(DemonstrationError, match="is of libero_spatial, but --suite libero_10 is asked for"):
        scan(folder, "libero_10")
