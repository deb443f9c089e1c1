"""Videos are read back as browsers do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rlinf.reporting.video import write_video

TASK = "pick up the black bowl between the plate and the ramekin and place it on the plate"


def frames(count: int = 6, *, size: int = 128) -> list[np.ndarray]:
    images = [np.full((size, size, 3), 60, dtype=np.uint8) for _ in range(count)]
    for number, image in enumerate(images):
        image[40:60, 10 * number : 10 * number + 20] = (220, 30, 30)
    return images


def test_webp_has_every_frame_at_its_time_and_place(tmp_path: Path) -> None:
    path = write_video(tmp_path / "videos" / "task_0.webp", frames(), task=TASK, success=True, steps=range(0, 48, 8))
    image = Image.open(path)
    assert image.n_frames == 6
    width, height = image.size
    assert width == 256
    assert height > 256 + 30
    durations = []
    for number in range(6):
        image.seek(number)
        image.load()
        durations.append(image.info["duration"])
        red = np.asarray(image.convert("RGB"))[100, :, 0]  # row 100 of the doubled picture crosses the square
        assert abs(int(np.argmax(red > 150)) - 20 * number) <= 3 or number == 5  # the last frame has a border
    assert durations == [100] * 5 + [1600]
    assert [entry.name for entry in path.parent.iterdir()] == ["task_0.webp"]


@pytest.mark.parametrize(("success", "channel"), [(True, 1), (False, 0)])
def test_the_last_frame_tells_the_outcome_by_its_border(tmp_path: Path, success: bool, channel: int) -> None:
    path = write_video(tmp_path / "v.webp", frames(3), task=TASK, success=success, steps=[2, 4, 5])
    image = Image.open(path)
    image.seek(2)
    corner = np.asarray(image.convert("RGB"))[1, 128]
    assert int(np.argmax(corner)) == channel
    image.seek(0)
    assert np.ptp(np.asarray(image.convert("RGB"))[1, 128].astype(int)) < 20


def test_long_captions_fit(tmp_path: Path) -> None:
    blank = np.zeros((101, 301, 3), np.uint8)
    with Image.open(write_video(tmp_path / "v.webp", [blank], task="x " * 300, success=True, steps=[2])) as image:
        assert image.height > 101 + 60
