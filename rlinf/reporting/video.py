"""Episode videos that play anywhere: animated WebP.

It is an image to a browser: it plays in every current one (Safari since 14), inside a self-contained page, without
codecs or permissions, and at simulator sizes it is smaller than VP8.
"""

import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from libero_runtime.files import whole_file

_INK, _PAPER, _MUTED = (242, 242, 240), (24, 26, 28), (150, 154, 158)
_SUCCESS, _FAILURE = (110, 205, 140), (236, 138, 118)
_LINE_HEIGHT, _MARGIN, _MIN_WIDTH = 15, 6, 256
_LETTER_WIDTH = 6  # of instructions in the caption's font, on average a little less
_FRAME_MS, _HOLD_MS = 100, 1500


def write_video(
    path: Path, frames: Sequence[NDArray[np.uint8]], *, task: str, success: bool, steps: Sequence[int]
) -> Path:
    """Write one RGB frame or more, each (H, W, 3) uint8, as WebP under a temporary name first.

    task: the instruction, which stands under them with ``steps``, the environment step of each frame; success: the
    episode's outcome, shown on the last frame, which is held a while.
    """
    first, *rest = _captioned(frames, task, success, steps)
    durations = [_FRAME_MS] * (len(frames) - 1) + [_FRAME_MS + _HOLD_MS]
    with whole_file(path) as partial:
        first.save(partial, "WEBP", save_all=True, append_images=rest, duration=durations, loop=0, quality=70, method=3)
    return path


def _captioned(
    frames: Sequence[NDArray[np.uint8]], task: str, success: bool, steps: Sequence[int]
) -> list[Image.Image]:
    shape = frames[0].shape
    font = ImageFont.load_default(size=11)
    scale = max(1, -(-_MIN_WIDTH // shape[1]))
    width, height = shape[1] * scale, shape[0] * scale
    lines = textwrap.wrap(task, (width - 2 * _MARGIN) // _LETTER_WIDTH)
    baseline = height + _MARGIN + _LINE_HEIGHT * len(lines)
    pages = []
    for frame, step in zip(frames, steps, strict=True):
        page = Image.new("RGB", (width, baseline + _LINE_HEIGHT + _MARGIN), _PAPER)
        page.paste(Image.fromarray(frame).resize((width, height), Image.Resampling.NEAREST), (0, 0))
        draw = ImageDraw.Draw(page)
        for row, line in enumerate(lines):
            draw.text((_MARGIN, height + _MARGIN + row * _LINE_HEIGHT), line, font=font, fill=_INK)
        draw.text((_MARGIN, baseline), f"step {step}", font=font, fill=_MUTED)
        pages.append(page)
    text, colour = ("success", _SUCCESS) if success else ("failure", _FAILURE)
    draw.text((width - _MARGIN, baseline), text, font=font, fill=colour, anchor="ra")  # on the last page
    draw.rectangle((0, 0, width - 1, height - 1), outline=colour, width=3)
    return pages
