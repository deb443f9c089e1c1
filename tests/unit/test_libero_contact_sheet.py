"""The picture of all tasks: layout, orientation and what is refused."""

import numpy as np
import pytest
from PIL import Image

from libero_runtime import contact_sheet
from libero_runtime.assets.drawing import font
from libero_runtime.suites import load_suite
from libero_runtime.vector_env import LiberoVectorEnv


def test_captions_break_between_words():
    typeface = font("DejaVuSans", 13)
    text = "pick up the alphabet soup and place it in the basket"
    lines = contact_sheet.wrap(text, 120, typeface)
    assert " ".join(lines) == text
    assert len(lines) > 2
    assert all(typeface.getlength(line) <= 120 for line in lines)
    assert contact_sheet.wrap("basket", 5, typeface) == ["basket"]


def test_tiles_lie_in_rows_under_their_heading():
    colors = [(200, 0, 0), (0, 200, 0), (0, 0, 200)]
    tiles = [(Image.new("RGB", (64, 64), color), "a task") for color in colors]
    sheet = contact_sheet.compose([("first", tiles), ("second", tiles[:1])], columns=2)
    pixels = np.asarray(sheet)
    centers = [np.argwhere((pixels == color).all(axis=2)) for color in colors]
    assert [len(found) for found in centers] == [2 * 64 * 64, 64 * 64, 64 * 64]
    red, green, blue = (found.mean(axis=0) for found in (centers[0][: 64 * 64], *centers[1:]))
    assert red[0] == green[0] < blue[0]
    assert red[1] == blue[1] < green[1]


def test_frames_are_not_mirrored():
    """In libero_object the basket stands to the right of everything, as seen by the camera."""
    env = LiberoVectorEnv(num_envs=1, image_size=128)
    try:
        task = load_suite("libero_object").task(0)
        picture = np.asarray(contact_sheet.first_frame(env, task, init_index=0, size=128)).astype(int)
    finally:
        env.close()
    red, _, blue = np.moveaxis(picture, 2, 0)
    straw = (red - blue > 40) & (red > 90)
    assert straw[:, 64:].sum() > 200
    assert straw[:, 64:].sum() > 3 * straw[:, :64].sum()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--output", "sheet.gif"], "must end in one of"),
        (["--suites", "libero_nothing"], "unknown suite 'libero_nothing'"),
        (["--suites", "libero_90"], "white_bowl.xml"),
        (["--columns", "0"], "--columns 0 at least 1"),
    ],
)
def test_bad_input_ends_with_two(capsys, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert contact_sheet.main(arguments) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_missing_tasks_can_be_left_out():
    tasks = load_suite("libero_90").tasks
    assert len(contact_sheet.loadable(tasks, skip_missing=True)) == 67
