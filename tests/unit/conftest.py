"""Fixtures of the tests of supervised fine-tuning, made anew for every file."""

import pytest

from tests.unit.sft_demos import write_suite
from tests.unit.sft_runs import run


@pytest.fixture(scope="module")
def demos(tmp_path_factory):
    """Recorded episodes of two tasks."""
    return write_suite(tmp_path_factory.mktemp("demos"), num_demos=3, num_steps=10, size=32)


@pytest.fixture(scope="module")
def base(demos, tmp_path_factory):
    """A small policy that was trained on them for a step."""
    folder = tmp_path_factory.mktemp("base") / "policy"
    assert run(demos, folder, "--steps", "1", "--save-dtype", "float32") == 0
    return folder
