"""Episode videos that play anywhere: animated WebP.

It is an image to a browser: it plays in every current one (Safari since 14), inside a self-contained page, without
codecs or permissions, and at simulator sizes it is smaller than VP8.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from libero_runtime.files import whole_file

_INK, _PAPER, _MUTED = (242, 242, 240), (24, 26, 28), (150, 154, 158)
_SUCCESS, _FAILURE = (110, 205, 140), (236, 138, 118)
_LINE_HEIGHT, _MARGIN, _MIN_WIDTH = 15, 6, 256


@dataclass(frozen=True, kw_only=True)
class Caption:
    """What stands under the frames.

    ``task`` is the instruction, ``success`` the episode's outcome (``None``: unknown), ``frame_steps`` the environment
    step of each frame (``None``: frames are counted instead). The outcome is shown on the last frame, which is held for
    ``hold_seconds``.
    """

    task: str
    success: bool | None = None
    frame_steps: Sequence[int] | None = None
    hold_seconds: float = 1.5


def write_video(path: Path, frames: Sequence[NDArray[np.uint8]], *, caption: Caption, fps: float = 10.0) -> Path:
    """Write one RGB frame or more, each (H, W, 3) uint8, as WebP under a temporary name first."""
    first, *rest = _captioned(frames, caption)
    durations = [round(1000 / fps)] * len(frames)
    durations[-1] += round(1000 * caption.hold_seconds)
    with whole_file(path) as partial:
        first.save(partial, "WEBP", save_all=True, append_images=rest, duration=durations, loop=0, quality=70, method=3)
    return path


def _captioned(frames: Sequence[NDArray[np.uint8]], caption: Caption) -> list[Image.Image]:
    shape = frames[0].shape
    font = ImageFont.load_default(size=11)
    scale = max(1, -(-_MIN_WIDTH // shape[1]))
    width, height = shape[1] * scale, shape[0] * scale
    lines = _wrap(caption.task, font, width - 2 * _MARGIN)
    strip = 2 * _MARGIN + _LINE_HEIGHT * (len(lines) + 1)
    strip += (height + strip) % 2  # even sizes, as video encoders want them
    pages = []
    for number, frame in enumerate(frames):
        page = Image.new("RGB", (width + width % 2, height + strip), _PAPER)
        page.paste(Image.fromarray(frame).resize((width, height), Image.Resampling.NEAREST), (0, 0))
        draw = ImageDraw.Draw(page)
        for row, line in enumerate(lines):
            draw.text((_MARGIN, height + _MARGIN + row * _LINE_HEIGHT), line, font=font, fill=_INK)
        baseline = height + _MARGIN + len(lines) * _LINE_HEIGHT
        steps = caption.frame_steps
        position = f"frame {number + 1} of {len(frames)}" if steps is None else f"step {steps[number]}"
        draw.text((_MARGIN, baseline), position, font=font, fill=_MUTED)
        if number == len(frames) - 1 and caption.success is not None:
            text, colour = ("success", _SUCCESS) if caption.success else ("failure", _FAILURE)
            draw.text((page.width - _MARGIN, baseline), text, font=font, fill=colour, anchor="ra")
            draw.rectangle((0, 0, page.width - 1, height - 1), outline=colour, width=3)
        pages.append(page)
    return pages


def _wrap(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> list[str]:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines
